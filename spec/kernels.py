"""The row operators of :mod:`moesaic.spec.semantics` in floats that hold the integers exactly.

Processors multiply, add and round floats several times faster than int64. Everything here is
exact, not nearly so:

- *Sums of products* of int8 codes are integers whose partial sums, in any order, stay below
  ``sum(|w|) * max(|x|)``. Up to 2**24 float32 holds every one of them, above that float64 does.
- *Requantisation* is ``floor(v * f + o)`` in float64 with ``f = multiplier * 2**-shift`` and
  ``o = bias * f + 0.5``. Say |v| and |bias| times the multiplier are at most 2**50. Up to a shift
  of 52 all terms are multiples of ``2**-shift`` and below ``2**53`` of them, so nothing is rounded
  but by ``floor``. Beyond, the terms are below 2**-2 each: whatever is rounded, the floor of
  ``0.5 + v * f`` with ``|v * f| < 0.5`` is 0, as it must be. Accumulators have 32 bits,
  multipliers 16, weighted addends 39 in all.

Tensors are float64 unless stated otherwise and any number of leading dimensions is allowed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moesaic.spec import semantics
from moesaic.spec.formats import INT8_LARGEST, INT16_LARGEST
from moesaic.spec.intgraph import IntNorm

FLOAT32_INTEGERS = 1 << 24
"""float32 holds every integer up to this magnitude."""


def float_for(largest_sum: int) -> torch.dtype:
    """The float type in which sums of products up to ``largest_sum`` are exact."""
    return torch.float32 if largest_sum <= FLOAT32_INTEGERS else torch.float64


def power_of_half(exponent: Tensor) -> Tensor:
    """``2**-exponent`` for int64 exponents 0 to 1022, made of bits: no device's ``pow`` decides."""
    return (1023 - exponent << 52).view(torch.float64)


def rescale_(
    value: Tensor, factor: Tensor, offset: Tensor, low: int | Tensor, high: int | Tensor
) -> Tensor:
    """``floor(value * factor + offset)`` clamped to low .. high, in place; see the module."""
    return torch.addcmul(offset, value, factor, out=value).floor_().clamp_(low, high)


def layer_norm(x: Tensor, norm: IntNorm) -> tuple[Tensor, Tensor]:
    """``semantics.layer_norm`` of int16 rows [..., channels]: (int8 as float32, int16).

    Exact up to 2**15 channels: sums of squares stay below 2**46, the variance below 2**62. Of
    ``plain`` rows it is ``semantics.plain_rows``.
    """
    if norm.plain:
        wide = x * (norm.channels * norm.scale.multiplier * 2.0**-norm.scale.shift) + 0.5
        return _narrowed(wide)
    total = x.sum(-1, keepdim=True)
    square, whole = (x * x).sum(-1, keepdim=True).long(), total.long()
    variance = (norm.channels * square - whole * whole + norm.epsilon).clamp_(min=1)
    r, e = semantics.reciprocal_sqrt(variance)
    g = semantics.round_shift(r * norm.scale.multiplier, 16)
    factor = g * power_of_half(e + norm.scale.shift)
    # (channels * x - total) * factor + 0.5
    wide = torch.addcmul(0.5 - total * factor, x, norm.channels * factor)
    return _narrowed(wide)


def _narrowed(wide: Tensor) -> tuple[Tensor, Tensor]:
    """Round down and saturate to int16, in place; the int8 rows with it."""
    wide.floor_().clamp_(-INT16_LARGEST, INT16_LARGEST - 1)
    narrow = wide.float().mul_(2.0**-8).add_(0.5).floor_()  # 24 bits suffice
    return narrow.clamp_(max=INT8_LARGEST - 1), wide


def rotate(first: Tensor, second: Tensor, cosine: Tensor, sine: Tensor, wide: bool) -> list[Tensor]:
    """``semantics.rotate`` with shift ``ANGLE_FRACTION_BITS``, at which no product saturates.

    ``cosine`` and ``sine`` are in units of 1, any tensors that broadcast.
    """

    def product(value: Tensor, factor: Tensor) -> Tensor:
        return (value * factor).add_(0.5).floor_()

    totals = (
        product(first, cosine).add_(product(second, -sine)),
        product(second, cosine).add_(product(first, sine)),
    )
    if wide:
        return [total.clamp_(-INT16_LARGEST, INT16_LARGEST - 1) for total in totals]
    rounded = (total.mul_(2.0**-8).add_(0.5).floor_() for total in totals)
    return [total.clamp_(-INT8_LARGEST, INT8_LARGEST - 1) for total in rounded]


def residual_add(residual: Tensor, addend: Tensor, weight: Tensor) -> Tensor:
    """``semantics.residual_add``; ``weight`` is a Q15 weight times 2**-23; destroys ``addend``."""
    rounded = addend.mul_(weight).add_(0.5).floor_()
    return rounded.add_(residual).clamp_(-INT16_LARGEST, INT16_LARGEST - 1)
