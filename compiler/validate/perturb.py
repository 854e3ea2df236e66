"""Inputs around the calibration samples, where gates and activations leave their usual range."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_SAMPLES, ENOUGH_TOKENS = 2, 512
"""Calibration samples that are compared as they are: two, or as many as have so many tokens, for
every expert of a small model to be reached."""


def own_samples(samples: NDArray[np.float32], tokens: int) -> NDArray[np.float32]:
    """Return those of ``samples`` [n, ...] that are compared as they are."""
    return samples[: max(LEAST_SAMPLES, ENOUGH_TOKENS // tokens)]


def perturbed(samples: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Return inputs [3, ...] made from ``samples`` [n, ...]: one far too strong, one faint and
    shifted, one of strong noise."""
    rng = np.random.default_rng(seed)
    first = samples[0].astype(np.float64)
    mean, spread = (
        float(samples.mean(dtype=np.float64)),
        float(samples.std(dtype=np.float64)) or 1.0,
    )
    noise = rng.standard_normal(first.shape)
    inputs = [8.0 * first, 0.05 * first + 3.0 * spread, mean + 6.0 * spread * noise]
    # Far too strong may be stronger than float32 can say.
    largest = float(np.finfo(np.float32).max)
    return np.clip(np.stack(inputs), -largest, largest).astype(np.float32)
