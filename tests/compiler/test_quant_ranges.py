"""Ranges and clips."""

from __future__ import annotations

import numpy as np
import pytest

from moesaic.compiler.quant.ranges import CLIP_STEP, CLIP_STEPS, Range


def seen(*parts: np.ndarray) -> Range:
    result = Range()
    for part in parts:
        result.add(part)
    return result


def measured_error(values: np.ndarray, clip: float, levels: int) -> float:
    step = clip / levels
    codes = np.clip(np.floor(values / step + 0.5), -levels, levels)
    return float(((values - codes * step) ** 2).mean())


@pytest.mark.parametrize("name", ["normal", "laplace", "uniform"])
def test_error_agrees_with_quantising_the_values(name: str) -> None:
    rng = np.random.default_rng(0)
    values = getattr(rng, name)(size=50000) * 3.7
    for share in (1.0, 0.7, 0.4):
        clip = share * float(np.abs(values).max())
        got = seen(values).error(clip, 127)
        assert got == pytest.approx(measured_error(values, clip, 127), rel=0.05)


def test_best_clip_is_nearly_the_best_of_all() -> None:
    values = np.random.default_rng(1).laplace(size=50000)
    found = seen(values).best_clip()
    largest = float(np.abs(values).max())
    tried = [largest * CLIP_STEP**i for i in range(CLIP_STEPS)]
    least = min(measured_error(values, clip, 127) for clip in tried)
    assert measured_error(values, found, 127) <= 1.05 * least
    assert found < largest


def test_best_clip_keeps_the_maximum_of_a_uniform_range() -> None:
    values = np.random.default_rng(2).uniform(-5, 5, 20000)
    assert seen(values).best_clip() == pytest.approx(5, rel=0.05)


def test_best_clip_weighs_outliers_by_their_number() -> None:
    values = np.random.default_rng(3).normal(size=100_000)
    # Least of (20 - c)**2 / 100000 + (c / 127)**2 / 12: one outlier is worth some of the range.
    best = 20 / (1 + 100_000 / (12 * 127**2))
    assert seen(values, np.array([20.0])).best_clip() == pytest.approx(best, rel=0.05)
    tail = np.concatenate([values, np.full(2000, 20.0)])
    assert seen(tail).best_clip() > 18


def test_ranges_of_parts_add_up() -> None:
    rng = np.random.default_rng(4)
    parts = [rng.normal(size=(10, 20)), 9 * rng.normal(size=77)]
    merged = seen(*parts)
    whole = seen(np.concatenate([part.reshape(-1) for part in parts]))
    assert (merged.counts == whole.counts).all() and merged.maximum == whole.maximum


def test_zeros_and_nothing_have_a_clip() -> None:
    assert seen(np.zeros(5)).best_clip() == 1.0
    assert seen(np.zeros((0, 3))).best_clip() == 1.0


def test_clipped_share_counts_what_is_above() -> None:
    values = np.concatenate([np.full(90, 1.0), np.full(10, 4.0)])
    assert seen(values).clipped_share(2.0) == pytest.approx(0.1)
    assert seen(values).clipped_share(4.0) == 0.0
