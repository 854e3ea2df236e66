"""Figures of every layer: sizes, products, cycles and their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from moesaic.compiler.estimate.task import Estimate, LayerEstimate
from moesaic.spec.arch import ArchConfig
from moesaic.spec.intgraph import (
    IntAttention,
    IntDense,
    IntGraph,
    IntLayer,
    IntMlp,
    IntMoe,
    IntRenorm,
    IntTokens,
    layer_macs,
)


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
    useful_cycles: float
    """Of the array, on products of the model; ``padding_cycles`` on others."""
    padding_cycles: float
    waits: dict[str, int]


def layer_facts(graph: IntGraph, estimate: Estimate, arch: ArchConfig) -> list[LayerFacts]:
    """Embedding, layers and head of a task, in order."""
    shapes = [_embed_shape(graph), *(_shape(layer) for layer in graph.layers), _head_shape(graph)]
    macs = layer_macs(graph.embed, graph.layers, graph.head, len(graph.gather))
    last = len(macs) - 1
    return [
        _layer(layer, number, last, shape, products, arch)
        for number, (layer, shape, products) in enumerate(
            zip(estimate.layers, shapes, macs, strict=True)
        )
    ]


def _layer(
    layer: LayerEstimate, number: int, last: int, shape: str, macs: int, arch: ArchConfig
) -> LayerFacts:
    products = macs / arch.macs_per_cycle
    useful = min(products, float(layer.matrix_busy))
    return LayerFacts(
        name=layer.label,
        short=layer.kind if number in (0, last) else f"{number - 1} {layer.kind}",
        kind=layer.kind,
        shape=shape,
        macs=macs,
        cycles=layer.cycles,
        product_cycles=products,
        weight_cycles=layer.weight_bytes / arch.line_bytes,
        vector_cycles=layer.vector_busy,
        weight_bytes=layer.weight_bytes,
        useful_cycles=useful,
        padding_cycles=layer.matrix_busy - useful,
        waits=layer.matrix_waits,
    )


def _embed_shape(graph: IntGraph) -> str:
    if isinstance(graph.embed, IntTokens):
        return f"{graph.tokens} tokens of {graph.channels} from the host"
    linear = graph.embed.linear
    return f"{len(graph.gather)} patches of {linear.inputs} to {linear.outputs}"


def _head_shape(graph: IntGraph) -> str:
    linear = graph.head.linear
    return f"{graph.head.rows} rows of {linear.inputs} to {linear.outputs}"


def _shape(layer: IntLayer) -> str:
    """Sizes of a layer in words; 16-bit operands are named."""
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
