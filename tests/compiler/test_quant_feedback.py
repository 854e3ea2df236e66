"""Rounding weights with feedback, and the moments of the inputs that it needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesaic.compiler.quant.feedback import round_half_up, round_with_feedback
from moesaic.compiler.quant.moments import Moments


def correlated(rows: int, features: int, seed: int) -> np.ndarray:
    """Rows [rows, features] of a few common causes and a little noise."""
    random = np.random.default_rng(seed)
    causes = random.normal(size=(rows, 4)) @ random.normal(size=(4, features))
    return causes + 0.1 * random.normal(size=(rows, features)) + random.normal(size=features)


def output_error(weight: np.ndarray, codes: np.ndarray, scale: np.ndarray, x: np.ndarray) -> float:
    return float(((x @ (weight - codes * scale[:, None]).T) ** 2).mean())


def moments(x: np.ndarray) -> Moments:
    result = Moments()
    result.add(x)
    return result


def test_errors_cancel_on_inputs_of_the_same_kind() -> None:
    """6 dB at least, on rows that it has not seen."""
    rows = correlated(4096, 96, 1)
    seen, fresh = rows[:2048], rows[2048:]
    weight = np.random.default_rng(2).normal(size=(40, 96))
    scale = np.abs(weight).max(1) / 127
    plain = round_half_up(weight / scale[:, None])
    codes = round_with_feedback(weight, scale, moments(seen).covariance(96), 127)
    assert np.array_equal(codes, np.round(codes)) and np.abs(codes).max() <= 127
    before, after = (output_error(weight, c, scale, fresh) for c in (plain, codes))
    assert after < before / 4


def test_independent_inputs_are_rounded_to_nearest() -> None:
    weight = np.random.default_rng(0).normal(size=(10, 30))
    scale = np.abs(weight).max(1) / 127
    codes = round_with_feedback(weight, scale, np.diag(np.arange(1.0, 31.0)), 127)
    assert np.array_equal(codes, round_half_up(weight / scale[:, None]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 90), st.integers(1, 130))
def test_it_is_never_worse_than_rounding(seed: int, outputs: int, inputs: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    x = correlated(rows, inputs, seed)
    x[:, random.random(inputs) < 0.2] = 0  # features that no sample reached
    weight = random.normal(size=(outputs, inputs)) * random.uniform(0.01, 10, (outputs, 1))
    scale = np.abs(weight).max(1) * random.uniform(0.6, 1, outputs) / 127
    covariance = moments(x).covariance(inputs)
    plain = np.clip(round_half_up(weight / scale[:, None]), -127, 127)
    codes = round_with_feedback(weight, scale, covariance, 127)
    assert np.isfinite(codes).all() and np.abs(codes).max() <= 127

    def error(some: np.ndarray) -> np.ndarray:
        lost = weight - some * scale[:, None]
        return ((lost @ covariance) * lost).sum(1)

    assert (error(codes) <= error(plain) * (1 + 1e-9)).all()


def test_equal_runs_give_equal_codes() -> None:
    covariance = moments(correlated(300, 50, 3)).covariance(50)
    weight = np.random.default_rng(4).normal(size=(20, 50))
    scale = np.abs(weight).max(1) / 127
    one, two = (round_with_feedback(weight, scale, covariance, 127) for _ in range(2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("parts", [1, 3])
def test_moments_are_those_of_all_rows(parts: int) -> None:
    x = correlated(60, 7, 5)
    seen = Moments()
    for part in np.array_split(x, parts):
        seen.add(part)
    assert seen.rows == 60
    assert np.allclose(seen.mean(7), x.mean(0))
    exact, trust = x.T @ x / 60, 60 / 67
    shrunk = trust * exact + (1 - trust) * np.diag(np.diag(exact))
    assert np.allclose(seen.covariance(7), shrunk)


def test_moments_of_no_rows() -> None:
    seen = Moments()
    seen.add(np.empty((0, 5)))
    assert not seen.mean(5).any()
    assert np.array_equal(seen.covariance(5), np.eye(5))
