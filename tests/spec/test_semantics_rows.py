"""Row operators against float: LayerNorm, softmax, attention scale, routing."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moesaic.spec import semantics, tables
from moesaic.spec.intgraph import Scale
from tests.spec.semantics_bounds import hold

OCTAVES = math.log2(math.e) * 128


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def residual_rows(channels: int, spread: float, mean: float) -> Tensor:
    rows = normal(48, channels) * spread + normal(48, 1, seed=1) * spread + mean
    return rows.round().clamp(-32768, 32767).long()


def exact_norm(x: Tensor, epsilon: int, step: float) -> Tensor:
    wide, channels = x.double(), x.shape[-1]
    total = wide.sum(-1, keepdim=True)
    variance = channels * (wide**2).sum(-1, keepdim=True) - total**2 + epsilon
    return (channels * wide - total) / variance.sqrt() / step


def test_layer_norm_error() -> None:
    excess, different, count = 0.0, 0, 0
    for channels in (8, 40, 96, 192, 1536):
        for spread, mean in ((2, 0), (30, 3000), (1000, -500), (9000, 3000)):
            scale = Scale.of(256 / 0.0317)
            x = residual_rows(channels, spread, mean)
            narrow, wide = semantics.layer_norm(x, channels, 3, scale.multiplier, scale.shift)
            exact = exact_norm(x, 3, 1 / scale.value)
            inside = exact.abs() < 32700
            error = (wide - exact).abs()[inside] - 0.5
            excess = max(excess, float((error / exact.abs()[inside].clamp(min=1)).max()))
            rounded = torch.floor(exact / 256 + 0.5).clamp(-128, 127)
            assert int((narrow - rounded).abs().max()) <= 1
            different += int((narrow != rounded).sum())
            count += narrow.numel()
    hold("layer norm, relative beyond half a 16-bit step", excess)
    hold("layer norm int8 codes that differ by one, share", different / count)


def test_layer_norm_of_a_constant_row_is_zero() -> None:
    x = torch.full((2, 17), 1234)
    narrow, wide = semantics.layer_norm(x, 17, 0, 40000, 3)
    assert not narrow.any() and not wide.any()


def test_layer_norm_saturates_both_results() -> None:
    x = torch.zeros(1, 1024, dtype=torch.int64)
    x[0, 0], x[0, 1] = 20000, -20000
    narrow, wide = semantics.layer_norm(x, 1024, 0, 50000, 1)
    assert narrow[0, :2].tolist() == [127, -128]
    assert wide[0, :2].tolist() == [32767, -32768]


def test_softmax_numerator_error() -> None:
    unit, worst = 0.0005, 0.0
    scale = Scale.of(unit * OCTAVES)
    for spread in (0.3, 2.0, 8.0, 30.0):
        scores = (normal(200, 129) * spread / unit).round().long()
        numerator, sums = semantics.softmax(scores, scale.multiplier, scale.shift)
        top = scores.amax(-1, keepdim=True)
        exact = 255 * torch.exp((scores - top).double() * unit)
        assert numerator.amax(-1).unique().tolist() == [255]
        assert int(numerator.min()) >= 0 and (sums == numerator.sum(-1)).all()
        worst = max(worst, float((numerator - exact).abs().max()))
    hold("softmax numerator, steps of 1/255", worst)


@pytest.mark.parametrize("columns", [129, 257])
def test_softmax_probability_error(columns: int) -> None:
    unit, worst = 0.0005, 0.0
    scale = Scale.of(unit * OCTAVES)
    for spread in (0.3, 2.0, 8.0, 30.0):
        scores = (normal(200, columns) * spread / unit).round().long()
        numerator, sums = semantics.softmax(scores, scale.multiplier, scale.shift)
        exact = torch.softmax(scores.double() * unit, -1)
        worst = max(worst, float((numerator / sums[:, None] - exact).abs().max()))
    hold(f"softmax probability, {columns} normal scores", worst)


def test_softmax_keeps_the_mass_of_a_tail() -> None:
    """One score stands out; all others lie where each numerator is a fraction of one step."""
    unit, worst = 0.0005, 0.0
    scale = Scale.of(unit * OCTAVES)
    for columns in (65, 129, 257, 600):
        for place in (0, columns // 2, columns - 1):
            for numerator in (1.0, 0.7, 0.4, 0.1, 0.03):
                scores = torch.full((1, columns), round(math.log(numerator / 255) / unit))
                scores[0, place] = 0
                _, sums = semantics.softmax(scores, scale.multiplier, scale.shift)
                exact = 255 + 255 * math.exp(int(scores.min()) * unit) * (columns - 1)
                worst = max(worst, abs(float(sums) / exact - 1))
    hold("softmax row sum of a tail below one step, relative", worst)


@pytest.mark.parametrize("bits", range(9))
def test_dither_thresholds_are_spread_evenly(bits: int) -> None:
    """Any aligned run of 2**bits columns has one threshold in each of 2**bits equal parts."""
    thresholds = semantics.dither(1024).reshape(-1, 1 << bits)
    parts = (thresholds >> 8 - bits).sort(-1).values
    assert (parts == torch.arange(1 << bits)).all()
    assert (thresholds[:, 0] < 256 >> bits).all(), "the first of a run is its lowest"


@settings(max_examples=50)
@given(st.lists(st.integers(0, 30000), min_size=1, max_size=520))
def test_softmax_rounds_each_numerator_at_its_columns_threshold(distances: list[int]) -> None:
    numerator, _ = semantics.softmax(-torch.tensor([[0, *distances]]), 40000, 15)
    for column, distance in enumerate([0, *distances]):
        exponent = min((distance * 40000 + (1 << 14)) >> 15, 4095)
        fine = tables.EXP2_TABLE[exponent % 128] >> exponent // 128
        reversed_column = int(f"{column % 256:08b}"[::-1], 2)
        assert int(numerator[0, column]) == (fine + reversed_column) // 256


@settings(max_examples=50)
@given(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=1, max_size=8))
def test_softmax_does_not_depend_on_a_common_offset(scores: list[int]) -> None:
    row = torch.tensor([scores])
    numerator, _ = semantics.softmax(row, 47000, 20)
    shifted, _ = semantics.softmax(row - row.max(), 47000, 20)
    assert numerator.tolist() == shifted.tolist()


def test_softmax_of_extreme_distances_is_one_hot() -> None:
    row = torch.tensor([[-(1 << 31), (1 << 31) - 1, 0]])
    numerator, sums = semantics.softmax(row, 65535, 0)
    assert numerator.tolist() == [[0, 255, 0]] and sums.tolist() == [255]


def test_attention_scale_error() -> None:
    sums, worst = torch.arange(255, 255 * 513), 0.0
    for factor in (0.9, 1.0, 1.7, 2.9):
        scale = Scale.of(factor)
        multiplier, shift = semantics.attention_scale(sums, scale.multiplier, scale.shift)
        assert int(multiplier.min()) >= 16384 and int(multiplier.max()) <= 65535
        estimate = multiplier / 2.0 ** shift.double() * sums
        worst = max(worst, float((estimate / scale.value - 1).abs().max()))
    hold("attention scale, relative", worst)


@pytest.mark.parametrize("renormalise", [False, True])
def test_route_weights_match_float_softmax(renormalise: bool) -> None:
    unit, worst = 2e-6, 0.0
    scale = Scale.of(unit * OCTAVES)
    for experts, top_k in ((3, 2), (8, 1), (8, 2), (16, 4), (64, 2)):
        logits = (normal(5000, experts) * 1.5 / unit).round().long()
        chosen, weights = semantics.route(logits, top_k, renormalise, scale.multiplier, scale.shift)
        ordered, index = torch.sort(logits, dim=-1, descending=True, stable=True)
        assert (chosen == index[:, :top_k]).all()
        exact = torch.softmax(logits.double() * unit, -1).gather(1, chosen)
        if renormalise:
            exact = exact / exact.sum(-1, keepdim=True)
        worst = max(worst, float((weights / 32768 - exact).abs().max()))
    hold("gate weight, absolute", worst)


def test_route_gives_ties_to_the_lower_index() -> None:
    logits = torch.tensor([[5, 9, 9, 5], [0, 0, 0, 0], [-3, 7, 2, 7]])
    chosen, weights = semantics.route(logits, 3, True, 65535, 0)
    assert chosen.tolist() == [[1, 2, 0], [0, 1, 2], [1, 3, 2]]
    third = torch.tensor([10923] * 3)
    assert (weights[1] - third).abs().max() <= 1


def test_route_to_a_single_expert_weighs_one() -> None:
    chosen, weights = semantics.route(torch.tensor([[-7]]), 1, False, 1000, 4)
    assert chosen.tolist() == [[0]] and weights.tolist() == [[semantics.ONE_Q15]]


def test_corrections_count_for_the_choice_alone() -> None:
    logits = torch.tensor([[-900, 1000, -1000, -500]])
    order, plain = semantics.route(logits, 4, False, 50000, 26, True)
    weight_of = dict(zip(order[0].tolist(), plain[0].tolist(), strict=True))
    scores = semantics.sigmoid_fine(logits, 50000, 26)[0]
    # As much as makes up for the difference: equal scores go to the lower number.
    even = torch.tensor([0, 0, int(scores[1] - scores[2]), 0])
    for corrections, first in ((even, [1, 2]), (even + torch.tensor([0, 0, 1, 0]), [2, 1])):
        chosen, weights = semantics.route(logits, 2, False, 50000, 26, True, corrections)
        assert chosen.tolist() == [first]
        assert weights[0].tolist() == [weight_of[e] for e in first]
    # Beyond 20 bits they count as much as those do.
    wide = torch.tensor([0, 1 << 19, 1 << 23, 0])
    assert semantics.route(logits, 2, False, 50000, 26, True, wide)[0].tolist() == [[1, 2]]


@settings(max_examples=50)
@given(
    st.lists(st.integers(-(1 << 23), (1 << 23) - 1), min_size=4, max_size=12),
    st.integers(1, 4),
    st.booleans(),
)
def test_route_weights_sum_to_at_most_one(logits: list[int], top_k: int, renormalise: bool) -> None:
    _, weights = semantics.route(torch.tensor([logits]), top_k, renormalise, 50000, 26)
    assert (weights >= 0).all() and (weights.diff(dim=-1) <= 0).all()
    total = Fraction(int(weights.sum()), semantics.ONE_Q15)
    assert total <= 1 + Fraction(4 * top_k, semantics.ONE_Q15)
    if renormalise:
        assert total >= 1 - Fraction(4 * top_k, semantics.ONE_Q15)
