"""The error bounds that ``docs/numerics.md`` promises; the tests of the semantics hold them.

A bound is the measured error rounded up; ``hold`` fails when an error is above its bound, and
also when it is below half of it: a bound that says nothing is a mistake in the test.
"""

from __future__ import annotations

BOUNDS: dict[str, float] = {
    "scale, relative": 2.0**-16,
    "exp2 table, relative": 1.4e-5,
    "softmax numerator, steps of 1/255": 1.6,
    "softmax probability, 129 normal scores": 0.012,
    "softmax probability, 257 normal scores": 0.016,
    "softmax row sum of a tail below one step, relative": 0.012,
    "reciprocal, relative": 3.1e-5,
    "reciprocal square root, relative": 3.8e-5,
    "attention scale, relative": 6.2e-5,
    "GELU before rounding to int8, absolute": 1.4e-4,
    "GELU uint8 codes that differ by one, share": 4.5e-3,
    "GELU int16 beyond half a step, absolute": 1.4e-4,
    "layer norm, relative beyond half a 16-bit step": 7.0e-5,
    "layer norm int8 codes that differ by one, share": 3.5e-3,
    "gate weight, absolute": 1.0e-3,
}


def hold(name: str, error: float) -> None:
    """Assert that a measured error is within its bound, and the bound not idle."""
    bound = BOUNDS[name]
    assert error <= bound, f"{name}: {error:.3g} is above the bound {bound:.3g}"
    assert error >= bound / 2, f"{name}: {error:.3g} is far below the bound {bound:.3g}: tighten it"
