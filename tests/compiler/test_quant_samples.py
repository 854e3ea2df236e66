"""Calibration samples: what they say of others, which are held out, which are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from moesaic.compiler.quant import Calibrated, QuantOptions
from moesaic.compiler.quant.growth import MOST, OF_ONE_FRAME, FramePeaks
from moesaic.compiler.quant.outliers import leave_out_outliers
from moesaic.compiler.quant.samples import split_held_out, spread
from moesaic.compiler.quant.suspicions import suspicions
from moesaic.spec.hostside import quantise_input
from tests.compiler.quant_models import dense_graph, random_graph, random_samples
from tests.compiler.test_rewrite import held_out_db


def growth(values: torch.Tensor, by_feature: bool) -> float:
    peaks = FramePeaks()
    peaks.add("seg", values, by_feature)
    return peaks.growth()


def test_growth_is_what_a_new_frame_exceeds_the_others_by() -> None:
    torch.manual_seed(0)
    # Thousands of independent values a frame: the largest are alike.
    assert growth(torch.rand(6, 500, 8), True) < 1.02
    # Channels that hardly change within a frame: each frame leaves the others' range.
    steady = torch.randn(6, 1, 64).expand(6, 50, 64)
    assert growth(steady, True) > 1.3
    # So many frames more, so much less is left to come.
    more = torch.randn(60, 1, 64).expand(60, 50, 64)
    assert 1.0 < growth(more, True) < growth(steady, True)
    # A channel alike in all frames needs nothing, however steady.
    assert growth(torch.ones(6, 50, 64), True) == 1.0


def test_growth_covers_frames_to_come() -> None:
    """With it, most of other frames' peaks are inside; without, few are."""
    torch.manual_seed(1)
    inside = {True: 0, False: 0}
    for _ in range(200):
        frames = torch.randn(5, 1, 32).expand(5, 4, 32)
        typical = frames[:4].abs().amax(1).mean(0)
        reached = float((frames[:4].abs().amax(1) / typical).max())
        new = float((frames[4].abs().amax(0) / typical).max())
        factor = growth(frames[:4], True)
        inside[True] += new <= reached * factor
        inside[False] += new <= reached
    assert inside[True] > 100 and inside[False] < 75, inside


def test_growth_of_few_and_odd_frames_is_bounded() -> None:
    assert growth(torch.rand(1, 5, 4), True) == OF_ONE_FRAME
    spike = torch.ones(3, 5, 4)
    spike[1] *= 1e9
    assert growth(spike, False) == MOST
    assert growth(torch.zeros(3, 5, 4), True) == 1.0
    shared = FramePeaks()  # the same frames seen by two tasks are no proof of anything
    for task in ("seg", "depth"):
        shared.add(task, torch.tensor([1.0, 2.0]).reshape(2, 1, 1), False)
    assert shared.growth() == pytest.approx(1.5 + 0.5 / 2)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 40])
def test_every_fourth_sample_is_held_out_of_eight_or_more(count: int) -> None:
    samples = np.arange(count)
    kept, aside = split_held_out(samples)
    assert sorted([*kept, *aside]) == samples.tolist()
    assert len(aside) == (count // 4 if count >= 8 else 0)
    assert all(number % 4 == 3 for number in aside)


def test_trials_take_samples_from_all_over() -> None:
    samples = np.arange(100, dtype=np.float32)[:, None]
    assert len(spread(samples, 10**9)) == 4 and spread(samples, 10**9)[-1, 0] >= 75
    assert len(spread(samples, 1)) == 100


def test_one_pixel_of_a_thousand_costs_its_sample_and_no_other() -> None:
    graph, samples = dense_graph(), random_samples(count=12)
    spoilt = samples.copy()
    spoilt[5].flat[17] = 1000.0
    kept, notes = leave_out_outliers(spoilt)
    assert len(kept) == 11 and len(notes) == 1
    assert "sample 5 is left out: its input reaches 1000" in notes[0]
    with_it, without = (held_out_db(graph, given, QuantOptions()) for given in (spoilt, samples))
    assert with_it > without - 1
    _, reports = Calibrated({"seg": graph}, {"seg": spoilt}, QuantOptions()).build()
    assert notes[0] in reports["seg"].notes


@pytest.mark.parametrize("place", range(12))
def test_an_outlier_is_named_by_its_number_in_the_file(place: int) -> None:
    """Wherever it is, and before others are held out."""
    spoilt = random_samples(count=12)
    spoilt[place].flat[17] = 1000.0
    calibrated = Calibrated({"seg": dense_graph()}, {"seg": spoilt}, QuantOptions(), hold_out=True)
    assert f"sample {place} is left out" in calibrated.notes["seg"][0]
    assert calibrated.held_out and len(calibrated.measured["seg"]) == 2
    assert np.abs(calibrated.measured["seg"]).max() < 10


def test_samples_that_are_all_different_stay() -> None:
    samples = random_samples(count=12)
    assert leave_out_outliers(samples) == (samples, [])
    scaled = samples * np.geomspace(1, 1000, 12, dtype=np.float32)[:, None, None, None]
    assert leave_out_outliers(scaled)[1] == []  # many are far from the median: the data are so
    spoilt = samples[:3].copy()
    spoilt[0] *= 1000
    assert leave_out_outliers(spoilt)[1] == []  # of three none can be called the odd one
    zeros = np.zeros_like(samples)
    zeros[5] = samples[5]
    assert leave_out_outliers(zeros)[1] == []  # the only one that holds anything


def test_what_is_measured_is_what_was_held_out() -> None:
    graph, samples = random_graph(), random_samples(count=12)
    given = {"seg": graph}, {"seg": samples[:8]}, QuantOptions()
    _, aside = Calibrated(*given, {"seg": samples[8:]}).build()
    _, seen = Calibrated(*given).build()
    assert aside["seg"].held_out and not seen["seg"].held_out
    assert (aside["seg"].samples, seen["seg"].samples) == (4, 8)
    assert aside["seg"].sqnr_db != seen["seg"].sqnr_db


@pytest.mark.parametrize(
    ("low", "high", "zero"),
    [(0.0, 1.0, -128), (0.0, 255.0, -128), (-1.0, 1.0, 0), (-2.1, 2.6, -14)],
)
def test_inputs_use_all_codes_and_their_zero_is_taken_out(
    low: float, high: float, zero: int
) -> None:
    rng = np.random.default_rng(3)
    graph = random_graph()
    samples = rng.uniform(low, high, (4, *graph.input_shape[1:])).astype(np.float32)
    weight = graph.embed.linear.weight * np.float32(2 / (high - low))
    linear = replace(graph.embed.linear, weight=weight)
    graph = replace(graph, embed=replace(graph.embed, linear=linear), streams=[])
    built, reports = Calibrated({"seg": graph}, {"seg": samples}, QuantOptions()).build()
    codes = quantise_input(built["seg"], samples)
    assert codes.min() < -125 and codes.max() > 124  # growth leaves little room
    assert abs(built["seg"].input_zero - zero) <= 1
    assert reports["seg"].sqnr_db > 27


def test_what_is_hardly_meant_is_said() -> None:
    graph, samples = random_graph(), random_samples(count=4)
    none = samples[:0]
    assert not [*suspicions(graph, samples[:2], samples[2:])]
    assert "calibrated with one sample" in next(suspicions(graph, samples[:1], none))
    (note,) = suspicions(graph, samples[:3], samples[2:])
    assert "1 of 2 samples that are held out are among those of calibration" in note
    pixels = np.random.default_rng(1).integers(0, 256, samples.shape).astype(np.float32)
    (note,) = suspicions(graph, pixels, none)
    assert "whole numbers from 0 to 255" in note and "does the model expect" in note
    # A network that scales them itself is right to take them.
    linear = replace(graph.embed.linear, weight=graph.embed.linear.weight / 255)
    assert not [
        *suspicions(replace(graph, embed=replace(graph.embed, linear=linear)), pixels, none)
    ]
