"""Closeness to the float model: a question apart from bit-exactness."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def ratio_db(signal: float, noise: float) -> float:
    """Power of the signal over that of the noise in dB.

    Infinite without noise. Noise without a signal, and noise that is no number, are as far from
    the reference as can be: minus infinity.
    """
    if noise == 0.0:
        return math.inf
    if not signal > 0.0 or not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(signal / noise)


def sqnr_db(reference: NDArray[np.float32], value: NDArray[np.float32]) -> float:
    """Signal to quantisation-noise ratio: :func:`ratio_db` of the reference and of the error.

    Raises
    ------
    ValueError
        The shapes differ, or the arrays are empty.
    """
    if value.shape != reference.shape or not value.size:
        raise ValueError(f"value must have the shape {reference.shape}, not {value.shape}")
    wide = reference.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity less infinity: no number, and no warning
        noise = (wide - value) ** 2
    return ratio_db(float((wide**2).mean()), float(noise.mean()))
