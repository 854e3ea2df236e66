"""Calibration samples that can be used, but are hardly what was meant."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler import ir

PIXEL_MAX = 255
LEAST_PIXEL = 64
"""Integers that never exceed this may be anything."""
FAR = 30.0
"""Times the position embedding that patches of the right range never make."""


def suspicions(
    graph: ir.Graph, samples: NDArray[np.float32], held_out: NDArray[np.float32]
) -> Iterator[str]:
    """Notes for the report; samples, held out or not, are [n, *input_shape[1:]]."""
    if len(samples) == 1:
        yield (
            "calibrated with one sample: what other inputs reach is a guess; give eight or more,"
            " like those of use"
        )
    known = {frame.tobytes() for frame in samples}
    if again := sum(frame.tobytes() in known for frame in held_out):
        yield (
            f"{again} of {len(held_out)} samples that are held out are among those of calibration:"
            " they say little of other inputs"
        )
    ratio = _patches_to_positions(graph, samples[:1])
    if _looks_like_bytes(samples) and ratio > FAR:
        yield (
            f"samples are whole numbers from {samples.min():g} to {samples.max():g}, and the patch"
            f" embedding makes {ratio:.0f} times as much of them as the position embedding is:"
            " does the model expect pixels from 0 to 1, or normalised ones?"
        )


def _looks_like_bytes(samples: NDArray[np.float32]) -> bool:
    whole = samples.min() >= 0 and LEAST_PIXEL < samples.max() <= PIXEL_MAX
    return bool(whole and (samples == np.floor(samples)).all())


def _patches_to_positions(graph: ir.Graph, samples: NDArray[np.float32]) -> float:
    """RMS of what patches add to the stream over that of what is there; 0 if nothing is."""
    embed = graph.embed
    if isinstance(embed, ir.Tokens):
        return 0.0
    patches = samples.reshape(len(samples), -1)[:, embed.gather] @ embed.linear.weight.T
    own = embed.initial - embed.initial.mean(0)
    positions = float(np.sqrt((own.astype(np.float64) ** 2).mean()))
    return (
        float(np.sqrt((patches.astype(np.float64) ** 2).mean())) / positions if positions else 0.0
    )
