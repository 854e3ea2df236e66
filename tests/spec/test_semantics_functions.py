"""Error bounds of the table functions, over all or nearly all of their arguments."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from moesaic.spec import semantics, tables
from moesaic.spec.activations import FINEST_STEP, tabulate
from moesaic.spec.intgraph import Scale
from tests.spec.semantics_bounds import BOUNDS, hold

ALL_Z = torch.arange(-(1 << 17), 1 << 17)


GELU = tabulate("gelu", FINEST_STEP)


def gelu_fine(z: Tensor) -> Tensor:
    above, below = (
        torch.tensor(part, dtype=torch.int64) for part in (GELU.positive, GELU.negative)
    )
    return semantics.activation_fine(z, above, below, GELU.linear)


def gelu(z: Tensor, multiplier: int, shift: int, offset: int) -> Tensor:
    return semantics.hidden_code(gelu_fine(z), multiplier, shift, offset)


def gelu_wide(z: Tensor, multiplier: int, shift: int) -> Tensor:
    return semantics.hidden_wide(gelu_fine(z), multiplier, shift)


def exact_gelu() -> Tensor:
    x = ALL_Z.double() / 4096
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def test_rows_with_a_scale_of_one_are_the_stream_itself() -> None:
    """What NORM sends to memory: every int16 value, -32768 too."""
    every = torch.arange(-(1 << 15), 1 << 15)[None]
    narrow, wide = semantics.plain_rows(every, 1, 1 << 15, 15)
    assert torch.equal(wide, every)
    assert int(narrow.min()) == -128 and int(narrow.max()) == 127
    assert not torch.equal(semantics.plain_rows(every, 1, (1 << 15) + 1, 15)[1], every)


def test_exp2_error() -> None:
    exponent = torch.arange(1 << tables.EXPONENT_BITS)
    mantissa, shift = semantics.exp2_negative(exponent)
    exact = 255 * 256 * 2.0 ** (-exponent.double() / 128)
    hold("exp2 table, relative", float((mantissa / 2.0 ** shift.double() / exact - 1).abs().max()))


def test_exp2_clamps_large_exponents() -> None:
    mantissa, shift = semantics.exp2_negative(torch.tensor([4095, 4096, 1 << 40]))
    assert mantissa.unique().numel() == 1 and shift.tolist() == [31, 31, 31]


def reciprocal_error(value: Tensor) -> float:
    r, t = semantics.reciprocal(value)
    assert int(r.min()) >= 32768 and int(r.max()) <= 65535
    return float((r * 2.0**-16 / 2.0 ** t.double() * value.double() - 1).abs().max())


def test_reciprocal_error() -> None:
    # Every mantissa, with the dropped bits all zero and all one.
    mantissas = torch.arange(1 << 16, 1 << 17)
    cases = (torch.arange(1, 1 << 17), mantissas << 15, (mantissas << 15) + (1 << 15) - 1)
    hold("reciprocal, relative", max(reciprocal_error(case) for case in cases))


def test_reciprocal_square_root_error() -> None:
    mantissas = torch.arange(1 << 16, 1 << 18)
    worst = 0.0
    low = torch.arange(1, 1 << 18)
    for value in (low, mantissas << 20, (mantissas << 20) + (1 << 20) - 1, mantissas << 44):
        r, e = semantics.reciprocal_sqrt(value)
        assert int(r.min()) >= 32768 and int(r.max()) <= 65535
        estimate = r * 2.0**-16 / 2.0 ** e.double()
        worst = max(worst, float((estimate * value.double().sqrt() - 1).abs().max()))
    hold("reciprocal square root, relative", worst)


def test_gelu_error_before_rounding() -> None:
    error = gelu_fine(ALL_Z) / 16384 - exact_gelu()
    hold("GELU before rounding to int8, absolute", float(error.abs().max()))


@pytest.mark.parametrize("largest", [0.5, 1.0, 2.0, 3.5, 6.0, 10.0, 20.0, 32.0])
def test_gelu_uint8_is_the_rounded_exact_one_nearly_always(largest: float) -> None:
    step = (largest + 0.17) / 255
    factor, offset = Scale.of(2.0**-14 / step), math.ceil(0.17 / step)
    got = gelu(ALL_Z, factor.multiplier, factor.shift, offset)
    want = (torch.floor(exact_gelu() / step + 0.5) + offset).clamp(0, 255)
    assert int(got.min()) in (0, 1) and int(got.max()) == 255
    difference = (got - want).abs()
    assert int(difference.max()) <= 1
    curved = (ALL_Z.abs() >> 12) < 6  # beyond, GELU is 0 or the identity
    share = float((difference[curved] > 0).double().mean())
    if largest == 0.5:  # the finest step is the worst case
        hold("GELU uint8 codes that differ by one, share", share)
    assert share <= BOUNDS["GELU uint8 codes that differ by one, share"]


@pytest.mark.parametrize("largest", [0.5, 2.0, 6.0, 20.0, 31.9])
def test_gelu_int16_error(largest: float) -> None:
    step = largest / 32767
    factor = Scale.of(2.0**-14 / step)
    got = gelu_wide(ALL_Z, factor.multiplier, factor.shift)
    inside = exact_gelu() < largest
    error = (got * step - exact_gelu()).abs()[inside] - step / 2
    if largest == 0.5:  # then rounding hides nothing
        hold("GELU int16 beyond half a step, absolute", float(error.max()))
    scale_error = largest * BOUNDS["scale, relative"]
    assert float(error.max()) <= BOUNDS["GELU int16 beyond half a step, absolute"] + scale_error
    assert int(got.max()) == 32767


def test_gelu_saturates_to_its_codes() -> None:
    z = torch.tensor([0, 4096, 1 << 16, -(1 << 17), -3000])
    assert gelu(z, 65535, 0, 7).tolist() == [7, 255, 255, 7, 0]
    assert gelu(z, 65535, 0, 0).tolist() == [0, 255, 255, 0, 0]
    assert gelu_wide(z, 65535, 0).tolist() == [0, 32767, 32767, 0, -32768]


def test_saturating_to_16_bits_first_changes_no_uint8_code() -> None:
    """The gateware saturates before it adds the offset."""
    value = torch.cat([torch.arange(-70000, 70001), torch.tensor([-(1 << 36), 1 << 36])])
    for offset in (0, 1, 7, 128, 254, 255):
        unlimited = (value + offset).clamp(0, 255)
        assert ((semantics.saturate(value, 16) + offset).clamp(0, 255) == unlimited).all()


def test_gelu_is_the_identity_far_right_and_zero_far_left() -> None:
    factor = Scale.of(2.0**-14 * 4)
    z = torch.tensor([6 * 4096, 20 * 4096, -6 * 4096, -(1 << 17)])
    assert gelu(z, factor.multiplier, factor.shift, 9).tolist() == [33, 89, 9, 9]
