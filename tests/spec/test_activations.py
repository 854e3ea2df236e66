"""Activations and their tables against the exact functions, over all that z can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moesaic.compiler.float_reference import ACTIVATIONS as IN_TORCH
from moesaic.spec import semantics, tables
from moesaic.spec.activations import ACTIVATIONS, FINEST_STEP, RANGE, REACH, choose_step, tabulate

ERRORS = {  # of a step of 2**-12, or the finest that a function can have
    "gelu": 1.31e-4,
    "gelu_tanh": 1.31e-4,
    "quick_gelu": 1.4e-4,
    "silu": 3.1e-4,
    "relu": 0.0,
    "squared_relu": 6.7e-4,
    "hard_swish": 8.8e-5,
}


def computed(name: str, step: float) -> np.ndarray:
    """Every pre-activation through the tables, as a real value."""
    table = tabulate(name, step)
    above, below = (
        torch.tensor(part, dtype=torch.int64) for part in (table.positive, table.negative)
    )
    fine = semantics.activation_fine(torch.arange(-RANGE, RANGE), above, below, table.linear)
    return fine.numpy() * table.fine


def test_both_definitions_are_the_same() -> None:
    x = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    assert ACTIVATIONS.keys() == IN_TORCH.keys() == ERRORS.keys()
    for name, activation in ACTIVATIONS.items():
        exact = IN_TORCH[name](x).numpy()
        assert np.allclose(activation.function(x.numpy()), exact, rtol=1e-12, atol=1e-12), name
        assert exact.min() >= activation.lowest


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_error_over_everything_that_z_can_be(name: str) -> None:
    """Where a function does not settle, up to the end of its tables."""
    step = choose_step(name, 1.0)
    reach = RANGE if ACTIVATIONS[name].linear else REACH
    exact = ACTIVATIONS[name].function(np.arange(-RANGE, RANGE) * step)
    inside = slice(RANGE - reach, RANGE + reach)
    error = float(np.abs(computed(name, step) - exact)[inside].max())
    assert 0.9 * ERRORS[name] <= error <= ERRORS[name]


@pytest.mark.parametrize("exponent", [0, 1, 3, 7, 12])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_tables_of_any_step_fit_their_words_and_hold_the_function(name: str, exponent: int) -> None:
    table = tabulate(name, FINEST_STEP * 2.0**exponent)
    for part in (table.positive, table.negative):
        assert part.shape == (tables.ACTIVATION_ENTRIES,)
        assert np.abs(part).max() < 1 << tables.ACTIVATION_VALUE_BITS - 1
        assert np.abs(np.diff(part)).max() < 1 << tables.ACTIVATION_SLOPE_BITS - 1
    if REACH * table.step < ACTIVATIONS[name].settled:
        return  # `choose_step` does not give it
    entries = np.arange(REACH + 1) % (1 << tables.ACTIVATION_STEP_BITS) == 0
    z = np.concatenate([-np.arange(REACH + 1)[entries], np.arange(REACH + 1)[entries]])
    exact = ACTIVATIONS[name].function(z * table.step)
    assert np.abs(computed(name, table.step)[z + RANGE] - exact).max() <= table.fine + 1e-5


def test_even_corrections_take_one_table() -> None:
    for name in ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu", "hard_swish"):
        table = tabulate(name, choose_step(name, 3.0))
        assert np.array_equal(table.positive, table.negative), name
    squared = tabulate("squared_relu", FINEST_STEP)
    assert not squared.negative.any() and squared.positive.any() and not squared.linear


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_step_holds_what_gives_the_peak_and_is_the_finest_such(name: str) -> None:
    activation = ACTIVATIONS[name]
    for peak in (0.01, 1.0, 20.0, 25.0, 26.0, 88.0, 1000.0):
        step = choose_step(name, peak)
        reach = RANGE if activation.linear else REACH
        assert float(activation.function(np.array(step * reach))) >= peak
        half = step / 2
        assert step == FINEST_STEP or (
            half * reach < activation.argument(1.25 * peak) or half * REACH < activation.settled
        )
    assert choose_step(name, 1e30) == FINEST_STEP * 2.0**12
