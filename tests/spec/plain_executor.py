"""The integer graph once more, in plain Python integers, one value at a time.

Written from ``docs/numerics.md``; shares with ``spec.semantics`` only the constant tables. Slow:
for graphs of a few tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from moesaic.spec import tables
from moesaic.spec.intgraph import (
    IntActivation,
    IntAttention,
    IntDense,
    IntGraph,
    IntLinear,
    IntMlp,
    IntMoe,
    IntNorm,
    IntRenorm,
    IntTokens,
    Scale,
)

Row = list[int]


def shift_round(value: int, shift: int) -> int:
    return value if shift == 0 else (value + (1 << (shift - 1))) // (1 << shift)


def clamp(value: int, bits: int) -> int:
    limit = 2 ** (bits - 1)
    return max(-limit, min(limit - 1, value))


def scaled(value: int, scale: Scale, bits: int) -> int:
    return clamp(shift_round(value * scale.multiplier, scale.shift), bits)


def dot(a: Sequence[int], b: Sequence[int]) -> int:
    total = sum(x * y for x, y in zip(a, b, strict=True))
    assert -(1 << 31) <= total < 1 << 31, "an accumulator left int32"
    return total


def linear(row: Row, layer: IntLinear, bits: int) -> Row:
    result = []
    for n in range(layer.outputs):
        total = dot(row, layer.weight[n].tolist()) + int(layer.bias[n])
        scale = Scale(int(layer.multiplier[n]), int(layer.shift[n]))
        result.append(scaled(total, scale, bits))
    return result


def invert(value: int) -> tuple[int, int]:
    """1 / value as (r, t), r * 2**(-16 - t)."""
    t = value.bit_length() - 1
    mantissa = value * 65536 // 2**t  # 65536 .. 131071
    guess = tables.RECIPROCAL_TABLE[mantissa // 256 - 256]
    correction = 131072 - mantissa * guess // 65536
    return min(guess * correction // 65536, 65535), t


def invert_root(value: int) -> tuple[int, int]:
    """1 / sqrt(value) as (r, e), r * 2**(-16 - e)."""
    e = (value.bit_length() - 1) // 2
    mantissa = value * 65536 // 4**e  # 65536 .. 262143
    guess = tables.RSQRT_TABLE[mantissa // 512]
    product = mantissa * (guess * guess // 65536) // 65536
    return min(guess * (3 * 65536 - product) // 131072, 65535), e


def power(exponent: int) -> tuple[int, int]:
    """255 * 256 * 2**(-exponent / 128) as (mantissa, right shift)."""
    exponent = min(exponent, 4095)
    return tables.EXP2_TABLE[exponent % 128], exponent // 128


def norm(row: Row, layer: IntNorm) -> tuple[Row, Row]:
    if layer.plain:
        wide = [scaled(layer.channels * x, layer.scale, 16) for x in row]
        return [clamp(shift_round(x, 8), 8) for x in wide], wide
    total, square = sum(row), sum(x * x for x in row)
    variance = max(1, layer.channels * square - total * total + layer.epsilon)
    r, e = invert_root(variance)
    factor = shift_round(r * layer.scale.multiplier, 16)
    wide = [
        clamp(shift_round((layer.channels * x - total) * factor, e + layer.scale.shift), 16)
        for x in row
    ]
    return [clamp(shift_round(x, 8), 8) for x in wide], wide


def activation(z: int, layer: IntActivation) -> int:
    table = layer.negative.tolist() if z < 0 else layer.positive.tolist()
    index, fraction = divmod(abs(z), 128)
    correction = table[255]
    if index < 255:
        low, high = table[index], table[index + 1]
        correction = shift_round(low * 128 + (high - low) * fraction, 7)
    return (max(z, 0) * 4 if layer.linear else 0) - correction


def hidden_code(value: int, layer: IntMlp, wide: bool) -> int:
    if wide:
        return clamp(value, 16)
    return max(0, min(255, value + layer.offset))


def mlp(row: Row, layer: IntMlp) -> Row:
    count = layer.down.inputs
    values = linear(row, layer.up, 18)
    factors = [layer.scale.multiplier] * count
    if layer.paired:
        factors = linear(row, layer.up, 16)[count:]
    hidden = [
        hidden_code(
            shift_round(activation(z, layer.activation) * factor, layer.scale.shift),
            layer,
            n < layer.wide,
        )
        for n, (z, factor) in enumerate(zip(values[:count], factors, strict=True))
    ]
    return linear(hidden, layer.down, 24)


def add(row: Row, addend: Row, weight: int = 32768) -> Row:
    return [clamp(x + shift_round(y * weight, 23), 16) for x, y in zip(row, addend, strict=True)]


def rotate(row: Row, token: int, layer: IntAttention, wide: bool) -> Row:
    assert layer.rotary is not None
    half, turned = layer.head_dim // 2, list(row)
    for first in range(len(row)):
        if first % layer.head_dim >= half:
            continue
        a, b, pair = row[first], row[first + half], first % layer.head_dim
        c, s = int(layer.rotary.cosine[token, pair]), int(layer.rotary.sine[token, pair])
        for place, (x, y) in ((first, (a * c, -b * s)), (first + half, (b * c, a * s))):
            total = clamp(shift_round(x, 14), 24) + clamp(shift_round(y, 14), 24)
            turned[place] = clamp(total, 16) if wide else clamp(shift_round(total, 8), 8)
    return turned


def attention(rows: list[Row], normal: list[Row], layer: IntAttention) -> list[Row]:
    query, key, value = (
        [linear(row, part, bits) for row in normal]
        for part, bits in (
            (layer.query, 18 if layer.rotary else 16 if layer.wide_query else 8),
            (layer.key, 18 if layer.rotary else 8),
            (layer.value, 8),
        )
    )
    if layer.rotary is not None:
        query = [rotate(row, t, layer, layer.wide_query) for t, row in enumerate(query)]
        key = [rotate(row, t, layer, False) for t, row in enumerate(key)]
    attended: list[Row] = [[] for _ in rows]
    for head in range(layer.heads):
        score = slice(head * layer.head_dim, (head + 1) * layer.head_dim)
        for r in range(len(rows)):
            scores = [dot(query[r][score], k[score]) for k in key]
            numerators = []
            for s in scores:
                distance = (max(scores) - s) * layer.softmax.multiplier
                mantissa, shift = power(shift_round(distance, layer.softmax.shift))
                column = len(numerators) % 256
                threshold = sum((column >> bit & 1) << 7 - bit for bit in range(8))
                numerators.append((mantissa // 2**shift + threshold) // 256)
            inverse, t = invert(sum(numerators))
            factor = Scale(shift_round(inverse * layer.scale.multiplier, 16), t + layer.scale.shift)
            for d in range(head * layer.value_dim, (head + 1) * layer.value_dim):
                column = [v[d] for v in value]
                attended[r].append(
                    scaled(dot(numerators, column), factor, 16 if layer.wide_attended else 8)
                )
    return [add(row, linear(a, layer.output, 24)) for row, a in zip(rows, attended, strict=True)]


def route(logits: Row, layer: IntMoe) -> list[tuple[int, int]]:
    """(expert, Q15 weight) of the chosen experts."""
    if layer.sigmoid:
        return route_sigmoids(logits, layer)
    order = sorted(range(len(logits)), key=lambda e: (-logits[e], e))[: layer.top_k]
    weights = []
    for logit in logits:
        distance = (max(logits) - logit) * layer.softmax.multiplier
        weights.append(shift_round(*power(shift_round(distance, layer.softmax.shift))))
    total = sum(weights[e] for e in order) if layer.renormalise else sum(weights)
    inverse, t = invert(total)
    return [(e, min(32768, shift_round(weights[e] * inverse, t + 1))) for e in order]


def route_sigmoids(logits: Row, layer: IntMoe) -> list[tuple[int, int]]:
    scores = []
    for e in range(len(logits)):
        steps = shift_round(abs(logits[e]) * layer.softmax.multiplier, layer.softmax.shift)
        small = shift_round(*power(steps))
        inverse, t = invert(65280 + small)
        value = shift_round((small if logits[e] < 0 else 65280) * inverse, t)
        scores.append(max(1, min(65535, value)))
    keys = logits
    if layer.corrections is not None:
        keys = [s + int(c) for s, c in zip(scores, layer.corrections, strict=True)]
    order = sorted(range(len(logits)), key=lambda e: (-keys[e], e))[: layer.top_k]
    weights = {e: scores[e] for e in order}
    inverse, t = invert(sum(weights.values()) if layer.renormalise else 65536)
    return [(e, min(32768, shift_round(w * inverse, t + 1))) for e, w in weights.items()]


def moe(row: Row, narrow: Row, wide: Row, layer: IntMoe) -> Row:
    for expert, weight in sorted(route(linear(wide, layer.gate, 24), layer)):
        row = add(row, mlp(wide if layer.wide else narrow, layer.experts[expert]), weight)
    return row


def run(graph: IntGraph, patches: NDArray[np.int8]) -> NDArray[np.int16]:
    """One frame: patches [patches, inputs] to codes [codes], head after head."""
    if isinstance(graph.embed, IntTokens):
        rows: list[Row] = patches.tolist()
    else:
        rows = graph.embed.initial.tolist()
        for number, patch in enumerate(patches.tolist(), start=graph.embed.first_row):
            rows[number] = add(rows[number], linear(patch, graph.embed.linear, 24))
    normal: list[tuple[Row, Row]] = []
    streams = [rows]
    for layer in graph.layers:
        if not layer.parallel:
            normal = [norm(row, layer.norm) for row in rows]
        read = [both[layer.wide] for both in normal]
        match layer:
            case IntAttention():
                rows = attention(rows, read, layer)
            case IntDense():
                mine = range(len(rows)) if layer.tokens is None else layer.tokens.tolist()
                rows = [
                    add(x, mlp(read[t], layer.mlp)) if t in mine else x for t, x in enumerate(rows)
                ]
            case IntMoe():
                rows = [moe(row, *both, layer) for row, both in zip(rows, normal, strict=True)]
            case IntRenorm():
                rows = [[0] * len(row) for row in rows]
                for part in layer.linears:
                    addends = [linear(row, part, 24) for row in read]
                    rows = [add(x, y) for x, y in zip(rows, addends, strict=True)]
            case _:
                assert_never(layer)
        streams.append(rows)
    codes: Row = []
    for head in graph.heads:
        for row in streams[head.depth][head.first_row : head.first_row + head.rows]:
            codes += linear(norm(row, head.norm)[head.wide], head.linear, 16)
    return np.array(codes, np.int16)
