"""The integer laws: rounding, saturation, requantisation, products, scales."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moesaic.spec import semantics
from moesaic.spec.intgraph import Scale
from tests.spec.semantics_bounds import BOUNDS, hold

accumulators = st.integers(-(1 << 31), (1 << 31) - 1)
multipliers = st.integers(0, 65535)


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


@given(st.integers(-(1 << 60), 1 << 60), st.integers(0, 90))
def test_round_shift_rounds_half_up(value: int, shift: int) -> None:
    want = half_up(Fraction(value, 1 << shift))
    assert semantics.round_shift(torch.tensor([value]), shift).item() == want
    assert semantics.round_shift(torch.tensor([value]), torch.tensor([shift])).item() == want


def test_round_shift_takes_a_shift_per_value() -> None:
    got = semantics.round_shift(torch.tensor([3, -3, 5, -5]), torch.tensor([1, 1, 0, 1]))
    assert got.tolist() == [2, -1, 5, -2]


@given(st.integers(-(1 << 60), 1 << 60), st.sampled_from([8, 16, 18, 24]))
def test_saturate_clamps_to_signed_range(value: int, bits: int) -> None:
    got = semantics.saturate(torch.tensor([value]), bits).item()
    assert got == min(max(value, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)


@given(accumulators, multipliers, st.integers(0, 63), st.sampled_from([8, 16, 18, 24]))
def test_requantise_is_one_rounding_of_the_exact_product(
    value: int, multiplier: int, shift: int, bits: int
) -> None:
    got = semantics.requantise(torch.tensor([value]), multiplier, shift, bits).item()
    exact = half_up(Fraction(value * multiplier, 1 << shift))
    assert got == min(max(exact, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)


@given(st.integers(1, 9), st.integers(1, 70), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_matmul_is_exact(rows: int, inner: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.integers(-32768, 32768, (rows, inner))
    b = rng.integers(-128, 128, (columns, inner))
    got = semantics.matmul(torch.from_numpy(a), torch.from_numpy(b))
    assert (got.numpy() == a @ b.T).all()


def test_matmul_is_exact_at_the_largest_accumulator() -> None:
    # 2**31 - 1 needs 31 bits of the 53 that a float64 sum has.
    a, b = torch.full((1, 66052), 255), torch.full((1, 66052), 127)
    assert semantics.matmul(a, b).item() == 66052 * 255 * 127


@given(st.integers(0, (1 << 62) - 1))
def test_bit_length_matches_python(value: int) -> None:
    assert semantics.bit_length(torch.tensor([value])).item() == value.bit_length()


@given(st.integers(-32768, 32767), st.integers(-(1 << 23), (1 << 23) - 1), st.integers(0, 1 << 15))
def test_residual_add_rounds_once_and_saturates(residual: int, addend: int, weight: int) -> None:
    got = semantics.residual_add(torch.tensor([residual]), torch.tensor([addend]), weight).item()
    exact = residual + half_up(Fraction(addend * weight, 1 << 23))
    assert got == min(max(exact, -32768), 32767)


@given(st.floats(2.0**-47, 65535.0))
def test_scale_keeps_a_full_mantissa(value: float) -> None:
    scale = Scale.of(value)
    assert 0 <= scale.multiplier <= 65535 and 0 <= scale.shift <= 63
    assert abs(scale.value / value - 1) <= BOUNDS["scale, relative"]


def test_scale_error_bound_is_reached() -> None:
    values = 2.0 ** np.random.default_rng(0).uniform(-40, 15.9, 20000)
    hold("scale, relative", max(abs(Scale.of(v).value / v - 1) for v in values))


@given(st.floats(0.0, 2.0**-40))
def test_tiny_scale_is_the_nearest_that_the_shift_allows(value: float) -> None:
    scale = Scale.of(value)
    assert 0 <= scale.multiplier <= 65535 and 0 <= scale.shift <= 63
    assert abs(scale.value - value) <= max(2.0**-63, value * 2.0**-16)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 65536.0])
def test_scale_refuses_what_it_cannot_hold(value: float) -> None:
    with pytest.raises(ValueError, match="scale must be 0 to 65535"):
        Scale.of(value)
