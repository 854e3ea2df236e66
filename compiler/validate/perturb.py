"""Inputs around the calibration samples, where gates and activations leave their usual range."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_SAMPLES = 2
"""Calibration samples that are compared as they are."""


def perturbed(samples: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Return inputs [5, ...] made from ``samples`` [n, ...]: one faint, one far too strong, one
    shifted, one of noise like the samples, one of far stronger noise."""
    rng = np.random.default_rng(seed)
    first = samples[0].astype(np.float64)
    mean, spread = float(samples.mean()), float(samples.std()) or 1.0
    noise = rng.standard_normal((2, *first.shape))
    inputs = [
        0.05 * first,
        8.0 * first,
        first + 3.0 * spread,
        mean + spread * noise[0],
        mean + 6.0 * spread * noise[1],
    ]
    return np.stack(inputs).astype(np.float32)
