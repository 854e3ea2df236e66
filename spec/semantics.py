"""Executable integer semantics of every operator, in torch: exact on CPU and CUDA.

Values are held in int64 tensors whatever their hardware width; each function states the range it
returns. Products are summed in float64, which is exact below 2**53, far above the int32
accumulators. These functions are the law for the gateware and share nothing with it but
``moesaic.spec.tables`` and ``formats``; ``moesaic.spec.kernels`` computes the same faster, and
tests compare.
Formulas: ``docs/numerics.md``.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from moesaic.spec import tables
from moesaic.spec.formats import (
    ANGLE_BITS,
    CORRECTION_BITS,
    GATE_FRACTION_BITS,
    HIDDEN_BITS,
    ONE_Q15,
    PRODUCT_BITS,
    RESIDUAL_GUARD_BITS,
    SIGMOID_FRACTION_BITS,
    UINT8_BITS,
)


def round_shift(value: Tensor, shift: int | Tensor) -> Tensor:
    """``value / 2**shift`` rounded half up: the one rounding rule. ``shift`` at least 0.

    One bit below the result is kept and rounded: unlike half of 2**63, it fits int64.
    """
    if isinstance(shift, int):
        return (value >> min(shift - 1, 63)) + 1 >> 1 if shift else value
    shift = shift.to(torch.int64)
    return torch.where(shift > 0, (value >> (shift - 1).clamp(0, 63)) + 1 >> 1, value)


def saturate(value: Tensor, bits: int) -> Tensor:
    """Clamp to the range of a signed integer of ``bits`` bits."""
    return value.clamp(-(1 << bits - 1), (1 << bits - 1) - 1)


def requantise(value: Tensor, multiplier: int | Tensor, shift: int | Tensor, bits: int) -> Tensor:
    """``saturate(round_shift(value * multiplier, shift))``; multiplier 0 to 65535."""
    return saturate(round_shift(value * multiplier, shift), bits)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Exact integer product ``a @ b.T`` of [rows, k] and [columns, k], int64."""
    return (a.to(torch.float64) @ b.to(torch.float64).T).to(torch.int64)


@cache
def _table(values: tuple[int, ...], device: torch.device) -> Tensor:
    """A table on a device; sent there once. Not for writing."""
    return torch.tensor(values, dtype=torch.int64, device=device)


def bit_length(value: Tensor) -> Tensor:
    """Number of bits of a non-negative integer below 2**62; 0 for 0."""
    # Without the bit behind the leading one, float64 cannot round up to the next power of two.
    leading = value & ~(value >> 1)
    return torch.frexp(leading.to(torch.float64)).exponent.to(torch.int64)


def exp2_negative(exponent: Tensor) -> tuple[Tensor, Tensor]:
    """Split ``exponent`` (steps of 2**-7 octave, >= 0) into table mantissa and right shift.

    Returns (mantissa, shift): 255 * 256 * 2**-x is mantissa / 2**shift; mantissa 16 bits.
    """
    exponent = exponent.clamp(max=(1 << tables.EXPONENT_BITS) - 1)
    fraction = exponent & (1 << tables.EXP2_FRACTION_BITS) - 1
    return _table(tables.EXP2_TABLE, exponent.device)[
        fraction
    ], exponent >> tables.EXP2_FRACTION_BITS


def reciprocal(value: Tensor) -> tuple[Tensor, Tensor]:
    """1 / value for 1 <= value < 2**32 as (r, t): 1 / value = r * 2**(-16 - t), r at most 65535.

    Normalise to f in [1, 2), look up at the middle of the segment, one Newton step.
    """
    t = bit_length(value) - 1
    f = (value << 16) >> t  # Q1.16, 17 bits
    r0 = _table(tables.RECIPROCAL_TABLE, value.device)[(f >> 8) & 255]
    h = (1 << 17) - ((f * r0) >> 16)
    return ((r0 * h) >> 16).clamp(max=65535), t


def reciprocal_sqrt(value: Tensor) -> tuple[Tensor, Tensor]:
    """1 / sqrt(value), 1 <= value < 2**62, as (r, e): r * 2**(-16 - e), r at most 65535.

    ``value`` is f * 2**(2 * e) with f in [1, 4): look up at the middle, one Newton step.
    """
    e = (bit_length(value) - 1) >> 1
    # f in Q2.16 (18 bits): bits below are dropped.
    f = torch.where(e >= 8, value >> (2 * e - 16).clamp(min=0), value << (16 - 2 * e).clamp(min=0))
    r0 = _table(tables.RSQRT_TABLE, value.device)[f >> 9]
    p = (f * ((r0 * r0) >> 16)) >> 16
    return ((r0 * ((3 << 16) - p)) >> 17).clamp(max=65535), e


def activation_fine(z: Tensor, positive: Tensor, negative: Tensor, linear: bool) -> Tensor:
    """The activation of ``z`` (signed 18 bits) in quarters of z's step, before its output scale.

    The correction is interpolated in ``positive`` for z from 0 on and in ``negative`` below
    (int64 [``ACTIVATION_ENTRIES``]). Without ``linear`` the result is minus the correction alone.
    """
    step, last = tables.ACTIVATION_STEP_BITS, tables.ACTIVATION_ENTRIES - 1
    magnitude = z.abs()
    index = (magnitude >> step).clamp(max=last)
    fraction = torch.where(index < last, magnitude & (1 << step) - 1, 0)
    low, high = (
        torch.where(z < 0, negative[where], positive[where])
        for where in (index, (index + 1).clamp(max=last))
    )
    correction = round_shift((low << step) + (high - low) * fraction, step)
    relu = z.clamp(min=0) if linear else torch.zeros_like(z)
    return (relu << tables.ACTIVATION_FINE_BITS) - correction


def hidden_code(fine: Tensor, multiplier: int | Tensor, shift: int, offset: int) -> Tensor:
    """uint8 code of an activation, ``offset`` being the code of zero, 0 to 255."""
    value = round_shift(fine * multiplier, shift) + offset
    return value.clamp(0, (1 << UINT8_BITS) - 1)


def hidden_wide(fine: Tensor, multiplier: int | Tensor, shift: int) -> Tensor:
    """int16 code of an activation. ``multiplier`` may be a signed int16 tensor: the other column
    of a pair."""
    return saturate(round_shift(fine * multiplier, shift), HIDDEN_BITS)


def angle(code: Tensor) -> Tensor:
    """Cosine or sine of its 16 bits, given as a signed integer: a sign above 15 of magnitude."""
    magnitude = code & (1 << ANGLE_BITS - 1) - 1
    return torch.where(code < 0, -magnitude, magnitude)


def rotate(
    first: Tensor, second: Tensor, cosine: Tensor, sine: Tensor, shift: int, wide: bool
) -> tuple[Tensor, Tensor]:
    """Rotate pairs: codes of ``first * cos - second * sin`` and ``second * cos + first * sin``.

    ``first`` and ``second`` have 18 bits, steps of the int16 codes (``wide``) or 256ths of those of
    the int8 ones; cosine and sine are integers of 15 bits and a sign, where ``1 << shift`` is 1.
    """

    def product(value: Tensor, factor: Tensor) -> Tensor:
        return saturate(round_shift(value * factor, shift), PRODUCT_BITS)

    def code(total: Tensor) -> Tensor:
        return saturate(total, 16) if wide else saturate(round_shift(total, 8), 8)

    turned = product(first, cosine) + product(second, -sine)
    return code(turned), code(product(first, sine) + product(second, cosine))


def layer_norm(
    x: Tensor, channels: int, epsilon: int, multiplier: int, shift: int
) -> tuple[Tensor, Tensor]:
    """Normalise int16 rows ``x`` [rows, channels]; returns (int8, int16) results.

    The int16 result has the step 2**shift / multiplier, the int8 result 256 times that.
    """
    total = x.sum(-1, keepdim=True)
    square = (x * x).sum(-1, keepdim=True)
    variance = (channels * square - total * total + epsilon).clamp(min=1)
    r, e = reciprocal_sqrt(variance)
    g = round_shift(r * multiplier, 16)
    wide = saturate(round_shift((channels * x - total) * g, e + shift), 16)
    return saturate(round_shift(wide, 8), 8), wide


def plain_rows(x: Tensor, channels: int, multiplier: int, shift: int) -> tuple[Tensor, Tensor]:
    """Rows as :func:`layer_norm` gives them, (int8, int16), of int16 rows ``x`` as they are.

    The int16 result has the step 2**shift / (multiplier * channels) residual steps.
    """
    wide = requantise(channels * x, multiplier, shift, 16)
    return saturate(round_shift(wide, 8), 8), wide


def softmax_fine(distance: Tensor, multiplier: int, shift: int) -> Tensor:
    """Softmax numerators with 8 fraction bits, 0 to 255 * 256, of distances from the largest."""
    mantissa, octaves = exp2_negative(round_shift(distance * multiplier, shift))
    return mantissa >> octaves


def dither(columns: int, device: torch.device | None = None) -> Tensor:
    """Rounding threshold of each of ``columns`` columns of a row, 0 to 255."""
    table = _table(tables.DITHER_TABLE, device or torch.device("cpu"))
    return table[torch.arange(columns, device=device) % len(table)]


def softmax(scores: Tensor, multiplier: int, shift: int) -> tuple[Tensor, Tensor]:
    """Un-normalised probabilities of int32 ``scores`` [..., columns]: (uint8, row sums).

    The largest score of a row gives 255. Row sums are at least 255.
    """
    fine = softmax_fine(scores.amax(-1, keepdim=True) - scores, multiplier, shift)
    probability = (fine + dither(scores.shape[-1], scores.device)) >> tables.DITHER_BITS
    return probability, probability.sum(-1)


def attention_scale(sums: Tensor, multiplier: int, shift: int) -> tuple[Tensor, Tensor]:
    """(multiplier, shift) per row that turn P*V into attended codes.

    1/sum times multiplier / 2**shift.
    """
    r, t = reciprocal(sums)
    return round_shift(r * multiplier, 16), t + shift


def residual_add(residual: Tensor, addend: Tensor, weight: int | Tensor = ONE_Q15) -> Tensor:
    """int16 residual plus a 24-bit addend (256ths of a residual step) times a Q15 weight."""
    return saturate(
        residual + round_shift(addend * weight, GATE_FRACTION_BITS + RESIDUAL_GUARD_BITS), 16
    )


def sigmoid_fine(logits: Tensor, multiplier: int, shift: int) -> Tensor:
    """Sigmoid with ``SIGMOID_FRACTION_BITS`` fraction bits, 1 to 65535, of 24-bit ``logits``."""
    mantissa, exponent = exp2_negative(round_shift(logits.abs() * multiplier, shift))
    power, one = round_shift(mantissa, exponent), tables.EXP2_TABLE[0]
    r, t = reciprocal(one + power)
    numerator = torch.where(logits < 0, power, one)
    most = (1 << SIGMOID_FRACTION_BITS) - 1
    return round_shift(numerator * r, t + 16 - SIGMOID_FRACTION_BITS).clamp(1, most)


def route(
    logits: Tensor,
    top_k: int,
    renormalise: bool,
    multiplier: int,
    shift: int,
    sigmoid: bool = False,
    corrections: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose experts: 24-bit ``logits`` [tokens, experts] -> (indices, Q15 weights) [tokens, k].

    The ``top_k`` largest logits (ties to the lower index) in descending order. Weights are their
    softmax over all experts or, with ``sigmoid``, their sigmoids; with ``renormalise`` over the sum
    of the chosen. With 24-bit ``corrections`` [experts] the choice, and it alone, is by sigmoids
    plus those, in steps of 2**-``SIGMOID_FRACTION_BITS``.
    """
    keys = logits
    if sigmoid:
        weight = sigmoid_fine(logits, multiplier, shift)
        if corrections is not None:
            keys = weight + saturate(corrections, CORRECTION_BITS)
    else:
        distance = logits.amax(-1, keepdim=True) - logits
        mantissa, exponent = exp2_negative(round_shift(distance * multiplier, shift))
        weight = round_shift(mantissa, exponent)
    order = torch.argsort(keys, dim=-1, descending=True, stable=True)[:, :top_k]
    chosen = torch.gather(weight, 1, order)
    total = (chosen if renormalise else weight).sum(-1, keepdim=True)
    if sigmoid and not renormalise:
        total = torch.full_like(total, 1 << SIGMOID_FRACTION_BITS)
    r, t = reciprocal(total)
    return order, round_shift(chosen * r, t + 1).clamp(max=ONE_Q15)
