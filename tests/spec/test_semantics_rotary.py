"""Rotation of pairs: against exact rotations, and where it must be exact."""

from __future__ import annotations

import math

import pytest
import torch

from moesaic.spec import semantics
from moesaic.spec.formats import ANGLE_FRACTION_BITS

ONE = 1 << ANGLE_FRACTION_BITS


@pytest.mark.parametrize("wide", [False, True])
def test_rotation_is_within_a_step_of_the_exact_one(wide: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randint(-20000, 20000, (2, 100_000), generator=generator)
    angle = torch.rand(100_000, generator=generator, dtype=torch.float64) * 2 * math.pi
    cosine, sine = ((part * ONE).round().long() for part in (angle.cos(), angle.sin()))
    found = semantics.rotate(first, second, cosine, sine, ANGLE_FRACTION_BITS, wide)
    exact = (
        first * angle.cos() - second * angle.sin(),
        second * angle.cos() + first * angle.sin(),
    )
    unit = 1 if wide else 256
    for codes, values in zip(found, exact, strict=True):
        # Two roundings of products, and of cosine and sine to 2**-15 each.
        error = (codes - values / unit).abs().max()
        slack = 1 + 2 * 20000 * 2.0**-15
        assert error <= (slack if wide else 0.5 + slack / 256)
    assert (found[0] != (exact[1] / unit).round()).any()  # the other one is another one


def test_no_angle_leaves_values_as_they_are() -> None:
    values = torch.arange(-(1 << 17), 1 << 17)
    one, zero = torch.full_like(values, ONE), torch.zeros_like(values)
    wide = semantics.rotate(values, values, one, zero, ANGLE_FRACTION_BITS, True)
    narrow = semantics.rotate(values, values, one, zero, ANGLE_FRACTION_BITS, False)
    for part in wide:
        assert torch.equal(part, semantics.saturate(values, 16))
    for part in narrow:
        assert torch.equal(part, semantics.saturate(semantics.round_shift(values, 8), 8))


def test_angles_are_magnitude_and_sign() -> None:
    codes = torch.tensor([0, 1, ONE, 32767, -32768, -32767, ONE - 32768])
    assert semantics.angle(codes).tolist() == [0, 1, ONE, 32767, 0, -1, -ONE]
