"""Closeness to the float model: a question apart from bit-exactness."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def decibels(power: float, noise: float) -> float:
    """10 log10(power / noise): infinite if there is no noise, minus infinity if that is all."""
    if noise == 0:
        return float("inf")
    return 10.0 * float(np.log10(power / noise)) if power else float("-inf")


def sqnr_db(reference: NDArray[np.float32], value: NDArray[np.float32]) -> float:
    """Signal to quantisation-noise ratio: power of the reference over that of the error."""
    wide = reference.astype(np.float64)
    return decibels(float((wide**2).mean()), float(((wide - value) ** 2).mean()))
