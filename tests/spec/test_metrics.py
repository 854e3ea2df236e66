"""SQNR where it is easy to get wrong: nothing to compare, no error, no signal, no number."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from moesaic.spec.metrics import ratio_db, sqnr_db

INF, NAN = math.inf, math.nan


def db(reference: list[float], value: list[float]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return sqnr_db(np.array(reference, np.float32), np.array(value, np.float32))


@pytest.mark.parametrize(
    "reference, value, expected",
    [
        ([3, 4], [3, 4], INF),
        ([0, 0], [0, 0], INF),
        ([0, 0], [0, 1e-20], -INF),
        ([1, 0], [0, 0], 0.0),
        ([10, 0], [11, 0], 20.0),
        ([10, 0], [10, 1], 20.0),
        ([1, 1], [2, 2], 0.0),
        ([1, 1], [11, 1], 10 * math.log10(2 / 100)),
        ([1, 2], [1, NAN], -INF),
        ([1, NAN], [1, 2], -INF),
        ([NAN], [NAN], -INF),
        ([1, 2], [1, INF], -INF),
        ([1, INF], [1, INF], -INF),
        ([-INF], [1], -INF),
        ([3e38, 1], [-3e38, 1], 10 * math.log10(1 / 4)),
    ],
)
def test_corner_cases(reference: list[float], value: list[float], expected: float) -> None:
    assert db(reference, value) == pytest.approx(expected, abs=1e-6)


def test_the_reference_is_the_signal() -> None:
    assert db([10, 0], [0, 0]) == 0.0 and db([0, 0], [10, 0]) == -INF
    assert db([10], [9]) == pytest.approx(20) and db([9], [10]) == pytest.approx(19.085, abs=1e-3)


def test_small_errors_of_large_values_are_not_lost() -> None:
    # In float32 the error would be 0 or rounded, and the power would overflow.
    value = np.full(4, 2.0**20, np.float32)
    assert sqnr_db(value, value + np.float32(0.125)) == pytest.approx(60 * math.log10(2**23) / 3)
    assert math.isfinite(sqnr_db(np.full(4, 1e30, np.float32), np.full(4, 1.1e30, np.float32)))


@pytest.mark.parametrize("shapes", [((2,), (1,)), ((2, 1), (1, 2)), ((1, 2), (2,)), ((0,), (0,))])
def test_what_cannot_be_compared_is_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    first, second = (np.ones(shape, np.float32) for shape in shapes)
    with pytest.raises(ValueError, match="value must have the shape"):
        sqnr_db(first, second)


@pytest.mark.parametrize(
    "signal, noise, expected",
    [(0, 0, INF), (1, 0, INF), (NAN, 0, INF), (0, 1, -INF), (NAN, 1, -INF), (-1, 1, -INF),
     (1, NAN, -INF), (1, INF, -INF), (100, 1, 20), (1, 100, -20)],
)  # fmt: skip
def test_ratio(signal: float, noise: float, expected: float) -> None:
    assert ratio_db(signal, noise) == pytest.approx(expected)
