"""Closeness to the float model: a question apart from bit-exactness."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sqnr_db(reference: NDArray[np.float32], value: NDArray[np.float32]) -> float:
    """Signal to quantisation-noise ratio in dB: power of the reference over that of the error.

    Infinite if there is no error.
    """
    wide = reference.astype(np.float64)
    noise = float(((wide - value) ** 2).mean())
    power = float((wide**2).mean())
    return 10 * float(np.log10(power / noise)) if noise and power else float("inf")
