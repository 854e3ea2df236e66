"""Integer graphs and weight images without values: enough to schedule, and cheap to have.

Lowering looks at sizes only. A model's cycles can therefore be estimated from its ONNX file alone,
without samples to calibrate on.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler import ir
from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.schedule.steps import Weights
from moesaic.spec.activations import FINEST_STEP, tabulate
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import FEW_WEIGHT_BITS
from moesaic.spec.graph_sizes import count_macs
from moesaic.spec.intgraph import (
    IntActivation,
    IntAttention,
    IntDense,
    IntEmbed,
    IntGraph,
    IntHead,
    IntLayer,
    IntLinear,
    IntMlp,
    IntMoe,
    IntNorm,
    IntRenorm,
    IntRotary,
    IntTokens,
    Scale,
)

SCALE = Scale(1 << 15, 16)
"""Any: nothing is computed with it."""


def _zeros(dtype: type, *shape: int) -> NDArray[np.generic]:
    """Zeros that take no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def _linear(linear: ir.Linear) -> IntLinear:
    return zero_linear(linear.outputs, linear.inputs)


def zero_linear(outputs: int, inputs: int) -> IntLinear:
    """A linear layer without values."""
    return IntLinear(
        weight=_zeros(np.int8, outputs, inputs),  # type: ignore[arg-type]
        bias=_zeros(np.int32, outputs),  # type: ignore[arg-type]
        multiplier=_zeros(np.uint16, outputs),  # type: ignore[arg-type]
        shift=_zeros(np.uint8, outputs),  # type: ignore[arg-type]
    )


def _mlp(mlp: ir.Mlp) -> IntMlp:
    activation = IntActivation.of(tabulate(mlp.activation, FINEST_STEP))
    outputs = mlp.up.outputs * (1 if mlp.factor is None else 2)
    up = zero_linear(outputs, mlp.up.inputs)
    paired = mlp.factor is not None
    return IntMlp(up, activation, SCALE, _linear(mlp.down), paired=paired)


def _layer(number: int, layer: ir.Layer, norm: IntNorm) -> IntLayer:
    label = ir.layer_label(number, layer)
    match layer:
        case ir.Attention():
            return IntAttention(
                norm,
                _linear(layer.query),
                _linear(layer.key),
                _linear(layer.value),
                _linear(layer.output),
                layer.heads,
                layer.head_dim,
                layer.value_dim,
                SCALE,
                SCALE,
                label,
                parallel=layer.parallel,
                rotary=None
                if layer.rotary is None
                else IntRotary.of(layer.rotary.cosine, layer.rotary.sine),
            )
        case ir.Mlp():
            mlp = _mlp(layer)
            return IntDense(norm, mlp, label, parallel=layer.parallel, tokens=layer.tokens)
        case ir.Moe():
            experts = tuple(_mlp(expert) for expert in layer.experts)
            # The bias tells gates apart, as those of several tasks: nothing is computed with it.
            mark = zlib.crc32(np.ascontiguousarray(layer.gate.weight).tobytes()) >> 1
            gate = replace(_linear(layer.gate), bias=np.full(len(layer.experts), mark, np.int32))
            return IntMoe(
                norm,
                gate,
                layer.top_k,
                layer.renormalise,
                SCALE,
                experts,
                label,
                parallel=layer.parallel,
                sigmoid=layer.sigmoid,
                corrections=(
                    None
                    if layer.corrections is None
                    else np.zeros(len(layer.corrections), np.int32)
                ),
            )
        case ir.Renorm():
            # Which tiles are not zero decides how they are computed.
            linear = _linear(layer.linear)
            linear = replace(linear, weight=(layer.linear.weight != 0).astype(np.int8))
            return IntRenorm(norm, (linear,), 1.0, label)
        case _:
            assert_never(layer)


def _embed(embed: ir.Embed | ir.Tokens) -> IntEmbed | IntTokens:
    if isinstance(embed, ir.Tokens):
        return IntTokens(embed.tokens, embed.channels)
    initial: NDArray[np.int16] = np.zeros((embed.tokens, embed.channels), np.int16)
    return IntEmbed(_linear(embed.linear), initial, embed.first_row)


def with_few_bits(graph: IntGraph, experts: bool, others: bool) -> IntGraph:
    """A graph without values whose ``experts``, and all ``others`` but gates and what makes the
    stream anew, have weights of four bits."""

    def linear(part: IntLinear, few: bool = others) -> IntLinear:
        return replace(part, weight_bits=FEW_WEIGHT_BITS) if few else part

    def mlp(part: IntMlp, few: bool = others) -> IntMlp:
        return replace(part, up=linear(part.up, few), down=linear(part.down, few))

    def layer(part: IntLayer) -> IntLayer:
        match part:
            case IntAttention():
                return replace(
                    part,
                    query=linear(part.query),
                    key=linear(part.key),
                    value=linear(part.value),
                    output=linear(part.output),
                )
            case IntDense():
                return replace(part, mlp=mlp(part.mlp))
            case IntMoe():
                return replace(part, experts=tuple(mlp(one, experts) for one in part.experts))
            case IntRenorm():
                return part
            case _:
                assert_never(part)

    embed = graph.embed
    return replace(
        graph,
        embed=replace(embed, linear=linear(embed.linear)) if isinstance(embed, IntEmbed) else embed,
        layers=tuple(map(layer, graph.layers)),
        heads=tuple(replace(head, linear=linear(head.linear)) for head in graph.heads),
    )


def shape_graph(graph: ir.Graph, task: str = "default") -> IntGraph:
    """The integer graph of ``graph`` with all sizes and no values: layers of tasks are equal whose
    sizes and gates are."""
    norm = IntNorm(graph.channels, 0, SCALE)
    embed = _embed(graph.embed)
    layers = tuple(
        _layer(number, layer, replace(norm, plain=layer.norm.plain))
        for number, layer in enumerate(graph.layers)
    )
    heads = tuple(
        IntHead(
            name=head.tensor,
            shape=head.shape,
            scale=1.0,
            permutation=head.permutation,
            depth=head.depth,
            norm=replace(norm, plain=head.norm.plain),
            linear=_linear(head.linear),
            first_row=head.first_row,
            rows=head.rows,
            wide=head.norm.plain,
        )
        for head in graph.heads
    )
    return IntGraph(
        task=task,
        input_name=graph.input_name,
        input_shape=graph.input_shape,
        input_scale=1.0,
        gather=graph.embed.gather,
        residual_scale=1.0,
        embed=embed,
        layers=layers,
        heads=heads,
        macs=count_macs(embed, layers, heads, len(graph.embed.gather)),
    )


class ShapeImage(WeightImage):
    """Places of segments as in a weight image whose layers all differ, without the bytes."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(arch)
        self._seen: dict[tuple[int, tuple[int, ...], tuple[int, ...]], int] = {}
        self._kept: list[Weights] = []  # no identity is used twice while these live

    def add(self, weights: Weights) -> int:
        """Reserve a segment's place and return its first ring word."""
        key = (id(weights.linear), weights.rows, weights.columns)
        if key not in self._seen:
            self._kept.append(weights)
            self._seen[key] = self._words
            self._words += weights.ring_words(self.arch)
        return self._seen[key]
