"""Figures of every layer: sizes, products, cycles and their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from moesaic.compiler.estimate.task import Estimate, LayerEstimate
from moesaic.spec.arch import ArchConfig
from moesaic.spec.graph_sizes import Part, part_macs, parts
from moesaic.spec.intgraph import (
    IntAttention,
    IntDense,
    IntEmbed,
    IntGraph,
    IntHead,
    IntLayer,
    IntMlp,
    IntMoe,
    IntRenorm,
    IntTokens,
)
from moesaic.spec.weight_sizes import WeightSizes, weight_sizes


@dataclass(frozen=True)
class LayerFacts:
    """One layer. The three bounds are the least cycles of its products, weights and vector work."""

    name: str
    """As the ONNX file, profiles and ``moesaic estimate`` have it."""
    short: str
    """Place and kind, for axes."""
    kind: str
    shape: str
    macs: int
    cycles: int
    product_cycles: float
    weight_cycles: float
    vector_cycles: int
    weight_bytes: int
    """That a frame reads."""
    stored: WeightSizes
    useful_cycles: float
    """Of the array, on products of the model; ``padding_cycles`` on others."""
    padding_cycles: float
    waits: dict[str, int]


def layer_facts(graph: IntGraph, estimate: Estimate, arch: ArchConfig) -> list[LayerFacts]:
    """Embedding, layers and heads of a task, in the order in which they are computed."""
    everything = parts(graph.embed, graph.layers, graph.heads)
    macs = part_macs(graph.embed, graph.layers, graph.heads, len(graph.gather))
    names = _short_names(graph)
    return [
        _layer(layer, name.format(layer.kind), _shape(graph, part), products, stored, arch)
        for layer, name, part, products, stored in zip(
            estimate.layers, names, everything, macs, weight_sizes(graph), strict=True
        )
    ]


def _short_names(graph: IntGraph) -> list[str]:
    """Place of every part, with a gap for its kind."""
    names, layers = [], 0
    heads = [head.name for head in graph.heads]
    for part in parts(graph.embed, graph.layers, graph.heads):
        if isinstance(part, IntEmbed):
            names.append("{}")
        elif isinstance(part, IntHead):
            names.append("{}" + (str(heads.index(part.name) or "")))
        else:
            names.append(f"{layers} {{}}")
            layers += 1
    return names


def _layer(
    layer: LayerEstimate, short: str, shape: str, macs: int, stored: WeightSizes, arch: ArchConfig
) -> LayerFacts:
    products = macs / arch.macs_per_cycle
    useful = min(products, float(layer.matrix_busy))
    return LayerFacts(
        name=layer.label,
        short=short,
        kind=layer.kind,
        shape=shape,
        macs=macs,
        cycles=layer.cycles,
        product_cycles=products,
        weight_cycles=layer.weight_bytes / arch.line_bytes,
        vector_cycles=layer.vector_busy,
        weight_bytes=layer.weight_bytes,
        stored=stored,
        useful_cycles=useful,
        padding_cycles=layer.matrix_busy - useful,
        waits=layer.matrix_waits,
    )


def _shape(graph: IntGraph, part: Part) -> str:
    """Sizes in words; 16-bit operands are named."""
    match part:
        case IntEmbed():
            sizes = f"{part.linear.inputs} to {part.linear.outputs}"
            return f"{len(graph.gather)} patches of {sizes}"
        case IntTokens():
            return f"{graph.tokens} tokens of {graph.channels} from the host"
        case IntHead():
            return f"{part.rows} rows of {part.linear.inputs} to {part.linear.outputs}"
        case _:
            return _layer_shape(part)


def _layer_shape(layer: IntLayer) -> str:
    match layer:
        case IntAttention():
            shape = f"{layer.heads} heads of {layer.head_dim}"
            if layer.value_dim != layer.head_dim:
                shape += f", values of {layer.value_dim}"
            wide = [
                ("rows", layer.wide),
                ("queries", layer.wide_query),
                ("attended rows", layer.wide_attended),
            ]
        case IntDense():
            shape = f"hidden {layer.mlp.hidden}"
            if layer.tokens is not None:
                shape += f", {len(layer.tokens)} tokens"
            wide = [("rows", layer.wide), _wide_hidden([layer.mlp])]
        case IntMoe():
            widths = sorted({expert.hidden for expert in layer.experts})
            hidden = f"{widths[0]} to {widths[-1]}" if len(widths) > 1 else f"{widths[0]}"
            shape = f"{len(layer.experts)} experts, top-{layer.top_k}, hidden {hidden}"
            wide = [("rows", layer.wide), _wide_hidden(layer.experts)]
        case IntRenorm():
            shape, wide = f"{layer.norm.channels} channels", [("rows", layer.wide)]
        case _:
            assert_never(layer)
    if layer.parallel:
        shape += ", on the rows of the layer in front"
    names = [name for name, is_wide in wide if is_wide]
    return f"{shape}, {' and '.join(names)} in 16 bits" if names else shape


def _wide_hidden(mlps: Sequence[IntMlp]) -> tuple[str, bool]:
    """What of the hidden rows has 16 bits in any of them, and whether anything has."""
    most = max(mlps, key=lambda mlp: mlp.wide)
    whole = most.wide == most.hidden
    return "hidden rows" if whole else f"{most.wide} hidden channels", most.wide > 0
