"""An integer graph as a float graph, and how each of its points is rounded.

All roundings on, it follows the integers (to what tables and multipliers of 16 bits lose); all
off, it has their weights alone. So what one rounding costs can be measured by itself, from a
bundle and without the file that it came from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np
import torch
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.points import mlp_hidden, norm_point
from moesaic.compiler.quant.build import WIDE_STEPS
from moesaic.compiler.quant.scales import SCORE_OCTAVES, Scales
from moesaic.spec import tables
from moesaic.spec.formats import (
    ANGLE_FRACTION_BITS,
    HIDDEN_BITS,
    RESIDUAL_BITS,
    RESIDUAL_GUARD_BITS,
    SIGMOID_FRACTION_BITS,
    UINT8_LARGEST,
)
from moesaic.spec.intgraph import (
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
    head_name,
)
from moesaic.spec.semantics import dither


@dataclass(frozen=True)
class Codes:
    """Integers that hold a point: ``step`` is the real value of one, others saturate.

    ``lowest`` and ``highest`` are those of every feature [features] where these differ.
    """

    step: float
    lowest: int | Tensor
    highest: int | Tensor

    @staticmethod
    def signed(step: float, bits: int) -> Codes:
        return Codes(step, -(1 << bits - 1), (1 << bits - 1) - 1)

    def __call__(self, value: Tensor) -> Tensor:
        """The values that are left."""
        codes = torch.floor(value / self.step + 0.5)
        return codes.clamp_(self.lowest, self.highest) * self.step  # type: ignore[arg-type]

    def clipped(self, value: Tensor) -> float:
        """Share of the values that saturate."""
        codes = torch.floor(value / self.step + 0.5)
        outside = (codes < self.lowest) | (codes > self.highest)
        return float(outside.double().mean()) if outside.numel() else 0.0


@dataclass(frozen=True)
class Numerators:
    """Softmax numerators, 255 for a row's largest, dithered: ``semantics.softmax``."""

    def __call__(self, value: Tensor) -> Tensor:
        """The probabilities [..., columns] that are left of probabilities."""
        largest = value.amax(-1, keepdim=True)
        threshold = dither(value.shape[-1]) / (1 << tables.DITHER_BITS)
        numerators = torch.floor(value / largest * UINT8_LARGEST + threshold.to(value.dtype))
        return numerators / numerators.sum(-1, keepdim=True)


Rounding = Codes | Numerators


def in_reals(graph: IntGraph) -> tuple[ir.Graph, dict[str, Rounding]]:
    """Return the float graph, norms folded, and the rounding of every point that has one.

    Queries, keys and values are in units of their codes: only their products have a scale.
    """
    zero = graph.input_zero
    roundings: dict[str, Rounding] = {}
    if isinstance(graph.embed, IntEmbed):
        roundings["input"] = Codes(graph.input_scale, -128 - zero, 127 - zero)
    roundings["residual"] = Codes.signed(graph.residual_scale, RESIDUAL_BITS)
    reader = _Reader(graph, roundings)
    # torch wants what it may write to.
    embed: ir.Embed | ir.Tokens = ir.Tokens(graph.gather.copy(), "embed")
    if isinstance(graph.embed, IntEmbed):
        embed = ir.Embed(
            linear=_linear("embed", graph.embed.linear, graph.input_scale, reader.addend, zero),
            gather=graph.gather.copy(),
            initial=(graph.embed.initial * graph.residual_scale).astype(np.float32),
            first_row=graph.embed.first_row,
            name="embed",
        )
    layers: list[ir.Layer] = []
    heads: dict[int, ir.Head] = {}
    for depth in range(len(graph.layers) + 1):
        for number, head in enumerate(graph.heads):
            if head.depth == depth:
                heads[number] = reader.head(number, head)
        for layer in graph.layers[depth : depth + 1]:
            layers.append(reader.layer(depth, layer, norm_point(graph.layers, depth)))
    return ir.Graph(
        source=graph.task,
        input_name=graph.input_name,
        input_shape=graph.input_shape,
        embed=embed,
        layers=layers,
        heads=[heads[number] for number in range(len(heads))],
    ), roundings


def codes_of_hidden(step: float, zero: int, wide: int, channels: int) -> Codes:
    """Of hidden rows: the first ``wide`` channels have 16 bits, the others a code of zero."""
    if wide == channels:
        return Codes.signed(step, HIDDEN_BITS)
    if not wide:
        return Codes(step, -zero, UINT8_LARGEST - zero)
    return Codes(step, *_hidden_limits(zero, wide, channels))


def _hidden_limits(zero: int, wide: int, channels: int) -> tuple[Tensor, Tensor]:
    """Lowest and highest code of every channel, of which the first ``wide`` have 16 bits."""
    narrow = torch.tensor([-zero, UINT8_LARGEST - zero], dtype=torch.float32)
    limits = narrow.repeat(channels, 1)
    limits[:wide] = torch.tensor([-(1 << HIDDEN_BITS - 1), (1 << HIDDEN_BITS - 1) - 1])
    return limits[:, 0], limits[:, 1]


def some_in_16_bits(scales: Scales, task: str, point: str, count: int) -> Codes:
    """Of hidden rows in their own order: ``count`` channels, the largest ones, have 16 bits."""
    step, zero = scales.hidden_without(task, point, count)
    order = scales.largest_first(task, point, count)
    if order is None:
        return Codes(step, -zero, UINT8_LARGEST - zero)
    lowest, highest = _hidden_limits(zero, count, len(order))
    own = np.argsort(order)
    return Codes(step, lowest[own], highest[own])


def _linear(
    name: str, linear: IntLinear, source: float, target: float, zero: int = 0, wide: int = 0
) -> ir.Linear:
    """A linear layer between codes of steps ``source`` and ``target``; ``zero`` stands for 0, but
    not in the first ``wide`` inputs."""
    factor = np.ldexp(linear.multiplier.astype(np.float64), -linear.shift.astype(np.int32))
    weight = linear.weight.astype(np.float64)
    bias = linear.bias + zero * weight[:, wide:].sum(1)
    return ir.Linear(
        weight=(weight * (factor * target / source)[:, None]).astype(np.float32),
        bias=(bias * factor * target).astype(np.float32),
        name=name,
    )


def _halves(linear: IntLinear) -> tuple[IntLinear, IntLinear]:
    """The first and the second half of a layer's outputs."""
    middle = linear.outputs // 2

    def part(rows: slice) -> IntLinear:
        return replace(
            linear,
            weight=linear.weight[rows],
            bias=linear.bias[rows],
            multiplier=linear.multiplier[rows],
            shift=linear.shift[rows],
        )

    return part(slice(middle)), part(slice(middle, None))


class _Reader:
    """Layers of one graph; notes roundings as it goes."""

    def __init__(self, graph: IntGraph, roundings: dict[str, Rounding]) -> None:
        self.residual = graph.residual_scale
        """Step of the residual stream where the reader is."""
        self.roundings = roundings

    @property
    def addend(self) -> float:
        return self.residual / (1 << RESIDUAL_GUARD_BITS)

    def norm(self, point: str, norm: IntNorm, wide: bool) -> tuple[ir.Norm, float]:
        """A norm, and the step of the rows that the layers behind it read."""
        fine = self._fine(norm)
        codes = Codes.signed(fine, 16) if wide else Codes.signed(fine * WIDE_STEPS, 8)
        self.roundings[point] = codes
        ones = np.ones(norm.channels, np.float32)
        epsilon = norm.epsilon * self.residual**2 / norm.channels**2
        return ir.Norm(ones, np.zeros_like(ones), epsilon, point, norm.plain), codes.step

    def _fine(self, norm: IntNorm) -> float:
        """Step of a norm's rows in 16 bits."""
        unit = self.residual / norm.channels if norm.plain else 1.0
        return unit / norm.scale.value

    def head(self, number: int, head: IntHead) -> ir.Head:
        name = head_name(number)
        norm, narrow = self.norm(f"{name}.norm", head.norm, head.wide)
        self.roundings[ir.output_point(number)] = Codes.signed(head.scale, RESIDUAL_BITS)
        return ir.Head(
            norm=norm,
            linear=_linear(name, head.linear, narrow, head.scale),
            first_row=head.first_row,
            rows=head.rows,
            permutation=head.permutation.copy(),
            name=name,
            tensor=head.name,
            shape=head.shape,
            depth=head.depth,
        )

    def layer(self, number: int, layer: IntLayer, rows: str) -> ir.Layer:
        norm, step = self.norm(rows, layer.norm, layer.wide)
        match layer:
            case IntAttention():
                return self._attention(number, layer, norm, step)
            case IntDense():
                mlp = self._mlp(number, None, layer.mlp, norm, step)
                return replace(mlp, parallel=layer.parallel, tokens=layer.tokens)
            case IntMoe():
                fine = self._fine(layer.norm)
                logit = layer.softmax.value / SCORE_OCTAVES
                return ir.Moe(
                    norm=norm,
                    gate=_linear(f"{number}.gate", layer.gate, fine, logit),
                    top_k=layer.top_k,
                    renormalise=layer.renormalise,
                    sigmoid=layer.sigmoid,
                    corrections=(
                        None
                        if layer.corrections is None
                        else np.ldexp(layer.corrections, -SIGMOID_FRACTION_BITS)
                    ),
                    experts=[
                        self._mlp(number, expert, mlp, norm, step)
                        for expert, mlp in enumerate(layer.experts)
                    ],
                    name=layer.name,
                    parallel=layer.parallel,
                )
            case IntRenorm():
                self.residual = layer.residual_scale
                self.roundings[f"{number}.residual"] = Codes.signed(self.residual, RESIDUAL_BITS)
                name = f"{number}.linear"
                parts = [_linear(name, part, step, self.addend) for part in layer.linears]
                weight = np.sum([part.weight for part in parts], 0)
                bias = np.sum([part.bias for part in parts], 0)
                return ir.Renorm(norm, ir.Linear(weight, bias, name), layer.name)
            case _:
                assert_never(layer)

    def _attention(
        self, number: int, layer: IntAttention, norm: ir.Norm, step: float
    ) -> ir.Attention:
        attended = 1.0 / layer.scale.value
        query = key = 1.0
        rotary = None
        if layer.rotary is not None:
            key /= WIDE_STEPS
            query /= 1 if layer.wide_query else WIDE_STEPS
            cosine, sine = (
                np.ldexp(part.astype(np.float32), -ANGLE_FRACTION_BITS)
                for part in (layer.rotary.cosine, layer.rotary.sine)
            )
            rotary = ir.Rotary(cosine, sine)
        self.roundings |= {
            f"{number}.query": Codes.signed(1.0, 16 if layer.wide_query else 8),
            f"{number}.key": Codes.signed(1.0, 8),
            f"{number}.value": Codes.signed(1.0, 8),
            f"{number}.probability": Numerators(),
            f"{number}.attention": Codes.signed(attended, 16 if layer.wide_attended else 8),
        }
        return ir.Attention(
            norm=norm,
            query=_linear(f"{number}.query", layer.query, step, query),
            key=_linear(f"{number}.key", layer.key, step, key),
            value=_linear(f"{number}.value", layer.value, step, 1.0),
            output=_linear(f"{number}.output", layer.output, attended, self.addend),
            heads=layer.heads,
            head_dim=layer.head_dim,
            value_dim=layer.value_dim,
            scale=layer.softmax.value / SCORE_OCTAVES,
            name=layer.name,
            parallel=layer.parallel,
            rotary=rotary,
        )

    def _mlp(
        self, number: int, expert: int | None, mlp: IntMlp, norm: ir.Norm, step: float
    ) -> ir.Mlp:
        point = mlp_hidden(number, expert)
        # Factors of pairs are in units of their codes.
        hidden = mlp.activation.fine / mlp.scale.value
        self.roundings[point] = codes_of_hidden(hidden, mlp.offset, mlp.wide, mlp.hidden)
        name = point.removesuffix("hidden")
        up, factor = mlp.up, None
        if mlp.paired:
            up, second = _halves(mlp.up)
            factor = _linear(f"{name}factor", second, step, 1.0)
        return ir.Mlp(
            norm=norm,
            up=_linear(f"{name}up", up, step, mlp.activation.step),
            activation=mlp.activation.name,
            factor=factor,
            down=_linear(f"{name}down", mlp.down, hidden, self.addend, mlp.offset, mlp.wide),
            name=name,
        )
