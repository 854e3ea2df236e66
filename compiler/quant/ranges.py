"""Ranges of real values on a logarithmic histogram, and the clip with the least error."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS_PER_OCTAVE = 128
"""Bins 0.5 % wide: less than one of 127 steps."""
LOWEST_LOG2, HIGHEST_LOG2 = -40, 40
BINS = BINS_PER_OCTAVE * (HIGHEST_LOG2 - LOWEST_LOG2)
_CENTRES = 2.0 ** ((np.arange(BINS) + 0.5) / BINS_PER_OCTAVE + LOWEST_LOG2)

CLIP_STEP = 0.97
CLIP_STEPS = 60
"""Clips tried: the largest magnitude times 0.97**0 ... 0.97**59, that is down to 0.166 of it."""


@dataclass
class Range:
    """Magnitudes seen at one point.

    A logarithmic axis needs no range in advance, so that one pass over the samples is enough
    and ranges of several tasks add up.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    maximum: float = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Count the magnitudes of an array of any shape."""
        if values.size == 0:
            return
        magnitude = np.abs(values).reshape(-1)
        self.maximum = max(self.maximum, float(magnitude.max()))
        log2 = np.log2(np.maximum(magnitude, 2.0**LOWEST_LOG2))
        index = ((log2 - LOWEST_LOG2) * BINS_PER_OCTAVE).astype(np.int64)
        self.counts += np.bincount(index.clip(max=BINS - 1), minlength=BINS)

    def clipped_share(self, clip: float) -> float:
        """Share of values whose magnitude is above ``clip``, to the width of a bin."""
        counts, centres = self._occupied()
        return float(counts[centres > clip].sum() / max(counts.sum(), 1))

    def error(self, clip: float, levels: int) -> float:
        """Mean squared error of rounding to multiples of ``clip / levels``, at most ``clip``."""
        return _error(*self._occupied(), clip, levels)

    def best_clip(self, levels: int = 127) -> float:
        """The clip of least :meth:`error`, from the maximum downwards; 1.0 if all values are 0."""
        if self.maximum == 0.0:
            return 1.0
        counts, centres = self._occupied()
        clips = [self.maximum * CLIP_STEP**power for power in range(CLIP_STEPS)]
        return min(clips, key=lambda clip: _error(counts, centres, clip, levels))

    def _occupied(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Counts and central magnitudes of the bins that are not empty."""
        bins = np.flatnonzero(self.counts)
        return self.counts[bins], np.minimum(_CENTRES[bins], self.maximum)


def _error(
    counts: NDArray[np.int64], centres: NDArray[np.float64], clip: float, levels: int
) -> float:
    step = clip / levels
    rounded = np.minimum(np.floor(centres / step + 0.5), levels) * step
    return float((counts * (centres - rounded) ** 2).sum() / max(counts.sum(), 1))
