"""What must hold in an integer graph beyond the types of its fields, before anything runs it.

Shapes come first, so that an archive's headers suffice to refuse arrays that do not belong
together; values need the arrays themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from moesaic.spec import tables
from moesaic.spec.constants import mlps
from moesaic.spec.exhaustive import unreachable
from moesaic.spec.formats import (
    CORRECTION_BITS,
    FEW_WEIGHT_BITS,
    FEW_WEIGHT_LARGEST,
    INT8_LARGEST,
    INT16_LARGEST,
    UINT8_LARGEST,
    WEIGHT_BITS,
)
from moesaic.spec.graph_sizes import count_macs, frame_values
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
)
from moesaic.spec.schema import SchemaError

ACCUMULATOR_MAX = (1 << 31) - 1
MAX_CHANNELS = 1 << 15
"""Up to here LayerNorm's variance stays below 2**62."""
MAX_TENSOR_VALUES = 1 << 26
"""Of an input or an output of a task."""
MAX_FRAME_VALUES = 1 << 28
"""Of the widest tensor that a frame needs: 2 GiB of float64."""
MAX_WEIGHTS = 1 << 30
"""Weights of a task, repeated ones counted every time: 4 GiB of float32."""


Found = tuple[str, IntLinear, int, int]
"""Where a linear layer is, the layer, how many of its inputs, the first ones, have 16 bits, and the
largest magnitude of the others."""


def linears(graph: IntGraph) -> Iterator[Found]:
    """All linear layers."""

    def of_rows(where: str, linear: IntLinear, wide: bool) -> Found:
        return where, linear, 0, INT16_LARGEST if wide else INT8_LARGEST

    def mlp(where: str, part: IntMlp, wide: bool) -> Iterator[Found]:
        yield of_rows(f"{where}.up", part.up, wide)
        yield f"{where}.down", part.down, part.wide, UINT8_LARGEST

    if isinstance(graph.embed, IntEmbed):
        yield of_rows("embed.linear", graph.embed.linear, False)
    for index, layer in enumerate(graph.layers):
        where = f"layers[{index}]"
        match layer:
            case IntAttention():
                for name in ("query", "key", "value"):
                    yield of_rows(f"{where}.{name}", getattr(layer, name), layer.wide)
                yield of_rows(f"{where}.output", layer.output, layer.wide_attended)
            case IntDense():
                yield from mlp(where, layer.mlp, layer.wide)
            case IntMoe():
                yield of_rows(f"{where}.gate", layer.gate, True)
                for number, expert in enumerate(layer.experts):
                    yield from mlp(f"{where}.experts[{number}]", expert, layer.wide)
            case IntRenorm():
                for number, linear in enumerate(layer.linears):
                    yield of_rows(f"{where}.linears[{number}]", linear, True)
            case _:
                unreachable(layer)
    for number, head in enumerate(graph.heads):
        yield of_rows(f"heads[{number}].linear", head.linear, head.wide)


def check_shapes(graph: IntGraph) -> None:
    """Every layer fits its neighbours, and nothing is larger than what devices are made for.

    Raises
    ------
    SchemaError
        Something is not so; the message names the layer and both numbers.
    """
    channels, tokens = graph.channels, graph.tokens
    patches, inputs = graph.gather.shape
    _most("channels", channels, MAX_CHANNELS)
    _most("tokens", tokens, ACCUMULATOR_MAX // (UINT8_LARGEST * INT8_LARGEST))
    for where, linear, _, _ in linears(graph):
        for name in ("bias", "multiplier", "shift"):
            _same(f"{where}.{name}", len(getattr(linear, name)), linear.outputs)
        if linear.weight_bits not in (FEW_WEIGHT_BITS, WEIGHT_BITS):
            raise SchemaError(
                f"{where}.weight_bits must be {FEW_WEIGHT_BITS} or {WEIGHT_BITS},"
                f" not {linear.weight_bits}"
            )
        if not linear.weight.size:
            raise SchemaError(f"{where}.weight is empty")
    if isinstance(graph.embed, IntEmbed):
        _linear("embed.linear", graph.embed.linear, channels, inputs)
        _most("embed.first_row and patches", graph.embed.first_row + patches, tokens)
    else:
        _same("rows of gather", patches, tokens)
        _same("columns of gather", inputs, channels)
        _same("input_zero of tokens", graph.input_zero, 0)
        if graph.input_scale != graph.residual_scale:
            raise SchemaError("input_scale of tokens must be residual_scale")
    for index, layer in enumerate(graph.layers):
        where = f"layers[{index}]"
        _norm(where, layer.norm, channels)
        if layer.parallel:
            _parallel(where, layer, graph.layers[index - 1] if index else None)
        match layer:
            case IntAttention():
                _attention(where, layer, channels, tokens)
            case IntDense():
                _mlp(where, layer.mlp, channels)
                _most(f"{where}.tokens", layer.row_count(tokens), tokens)
            case IntMoe():
                _moe(where, layer, channels)
            case IntRenorm():
                for number, linear in enumerate(layer.linears):
                    _linear(f"{where}.linears[{number}]", linear, channels, channels)
            case _:
                unreachable(layer)
    for number, head in enumerate(graph.heads):
        _head(f"heads[{number}]", head, graph)
    _most("values of the input", prod(graph.input_shape), MAX_TENSOR_VALUES)
    _most("gathered values", patches * inputs, MAX_TENSOR_VALUES)
    _most("codes of all outputs", graph.codes, MAX_TENSOR_VALUES)
    deepest = max(head.depth for head in graph.heads)
    _same("depth of the last head", deepest, len(graph.layers))
    if len({head.name for head in graph.heads}) < len(graph.heads):
        raise SchemaError("heads must have names of their own")
    _most("weights", sum(part.weight.size for _, part, *_ in linears(graph)), MAX_WEIGHTS)
    _most("values of a frame's widest tensor", frame_values(graph), MAX_FRAME_VALUES)
    _same("macs", graph.macs, count_macs(graph.embed, graph.layers, graph.heads, patches))


def check_values(graph: IntGraph) -> None:
    """Indices stay inside of what they index, and no accumulator can leave 32 bits.

    Raises
    ------
    SchemaError
        Something is not so.
    """
    _indices("gather", graph.gather, prod(graph.input_shape[1:]))
    for number, head in enumerate(graph.heads):
        _indices(f"heads[{number}].permutation", head.permutation, head.codes)
    for where, mlp in mlps(graph):
        _entries(f"{where}.activation.positive", mlp.activation.positive)
        _entries(f"{where}.activation.negative", mlp.activation.negative)
    for index, layer in enumerate(graph.layers):
        if isinstance(layer, IntDense) and layer.tokens is not None:
            _indices(f"layers[{index}].tokens", layer.tokens, graph.tokens)
            if (np.diff(layer.tokens) < 1).any():
                raise SchemaError(f"layers[{index}].tokens must ascend")
        if isinstance(layer, IntAttention) and layer.rotary is not None:
            for name in ("cosine", "sine"):
                if (getattr(layer.rotary, name) == -INT16_LARGEST).any():
                    raise SchemaError(f"layers[{index}].rotary.{name} must not hold -32768")
    for where, linear, wide, largest in linears(graph):
        if linear.shift.max(initial=0) > 63:
            raise SchemaError(f"{where}.shift must be 0 to 63, not {linear.shift.max()}")
        # int16 holds the magnitude of -128 and takes a quarter of int64's memory.
        magnitudes = np.abs(linear.weight.astype(np.int16))
        if linear.few_bits:
            _most(
                f"weights of {linear.weight_bits} bits of {where}",
                int(magnitudes.max()),
                FEW_WEIGHT_LARGEST,
            )
        sums = magnitudes[:, wide:].sum(1, dtype=np.int64) * largest
        sums += magnitudes[:, :wide].sum(1, dtype=np.int64) * INT16_LARGEST
        worst = int((sums + np.abs(linear.bias.astype(np.int64))).max(initial=0))
        _most(f"accumulators of {where}", worst, ACCUMULATOR_MAX)


def _head(where: str, head: IntHead, graph: IntGraph) -> None:
    _norm(where, head.norm, graph.channels)
    _linear(f"{where}.linear", head.linear, head.linear.outputs, graph.channels)
    _most(f"{where}.first_row and rows", head.first_row + head.rows, graph.tokens)
    _most(f"{where}.depth", head.depth, len(graph.layers))
    if head.depth < len(graph.layers) and graph.layers[head.depth].parallel:
        raise SchemaError(f"{where}.depth must not lie between layers that are parallel")
    values = prod(head.shape[1:])
    _most(f"values of {where}", values, MAX_TENSOR_VALUES)
    _same(f"{where}.permutation", head.permutation.size, values)


def _attention(where: str, layer: IntAttention, channels: int, tokens: int) -> None:
    width, values = layer.heads * layer.head_dim, layer.heads * layer.value_dim
    _linear(f"{where}.query", layer.query, width, channels)
    _linear(f"{where}.key", layer.key, width, channels)
    _linear(f"{where}.value", layer.value, values, channels)
    _linear(f"{where}.output", layer.output, channels, values)
    if layer.rotary is not None:
        _same(f"{where}.head_dim of rotated pairs", layer.head_dim, 2 * layer.rotary.pairs)
        for name in ("cosine", "sine"):
            rows, pairs = getattr(layer.rotary, name).shape
            _same(f"{where}.rotary.{name} rows", rows, tokens)
            _same(f"{where}.rotary.{name} pairs", pairs, layer.rotary.pairs)
    query = INT16_LARGEST if layer.wide_query else INT8_LARGEST
    _most(f"{where}.head_dim", layer.head_dim, ACCUMULATOR_MAX // (query * INT8_LARGEST))


def _mlp(where: str, layer: IntMlp, channels: int) -> None:
    _linear(f"{where}.up", layer.up, layer.hidden * (2 if layer.paired else 1), channels)
    _linear(f"{where}.down", layer.down, channels, layer.hidden)
    _most(f"{where}.wide", layer.wide, layer.hidden)
    if layer.wide == layer.hidden:
        _same(f"{where}.offset of 16-bit rows", layer.offset, 0)
    if layer.paired:
        _same(f"{where}.scale.multiplier of pairs", layer.scale.multiplier, 1)
    for name in ("positive", "negative"):
        entries = len(getattr(layer.activation, name))
        _same(f"{where}.activation.{name}", entries, tables.ACTIVATION_ENTRIES)


def _entries(where: str, table: np.ndarray) -> None:
    """An activation's table fits the words that a program loads."""
    values, slopes = table.astype(np.int64), np.diff(table.astype(np.int64))
    for what, numbers, bits in (
        ("entries", values, tables.ACTIVATION_VALUE_BITS),
        ("differences", slopes, tables.ACTIVATION_SLOPE_BITS),
    ):
        if numbers.min() < -(1 << bits - 1) or numbers.max() >= 1 << bits - 1:
            raise SchemaError(f"{where} must have {what} of {bits} bits")


def _moe(where: str, layer: IntMoe, channels: int) -> None:
    _linear(f"{where}.gate", layer.gate, len(layer.experts), channels)
    _most(f"{where}.top_k", layer.top_k, len(layer.experts))
    if layer.corrections is not None:
        _same(f"{where}.corrections.length", len(layer.corrections), len(layer.experts))
        if not layer.sigmoid:
            raise SchemaError(f"{where}.corrections must be of sigmoids")
        if not (np.abs(layer.corrections) < 1 << CORRECTION_BITS - 1).all():
            raise SchemaError(f"{where}.corrections must be of {CORRECTION_BITS} bits")
    for number, expert in enumerate(layer.experts):
        _mlp(f"{where}.experts[{number}]", expert, channels)


def _norm(where: str, norm: IntNorm, channels: int) -> None:
    _same(f"{where}.norm.channels", norm.channels, channels)


def _parallel(where: str, layer: IntLayer, before: IntLayer | None) -> None:
    if before is None:
        raise SchemaError(f"{where}.parallel must be False: there is no layer in front")
    if isinstance(before, IntRenorm):
        raise SchemaError(f"{where}.parallel must be False: the stream in front begins anew")
    if (layer.norm, layer.wide) != (before.norm, before.wide):
        raise SchemaError(
            f"{where}.norm and wide must be those of the layer that it is parallel to"
        )


def _linear(where: str, linear: IntLinear, outputs: int, inputs: int) -> None:
    if (linear.outputs, linear.inputs) != (outputs, inputs):
        raise SchemaError(
            f"{where}.weight must have the shape {outputs}x{inputs},"
            f" not {linear.outputs}x{linear.inputs}"
        )


def _indices(what: str, indices: np.ndarray, length: int) -> None:
    if not indices.size or indices.min() < 0 or indices.max() >= length:
        raise SchemaError(f"{what} must hold indices of 0 to {length - 1}")


def _most(what: str, found: int, most: int) -> None:
    if found > most:
        raise SchemaError(f"{what} must be at most {most}, not {found}")


def _same(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise SchemaError(f"{what} must be {wanted}, not {found}")
