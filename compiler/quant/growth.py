"""How much further than all calibration frames another frame reaches.

A range is the largest of a few frames, and another frame exceeds it: by little where thousands of
independent values decide, by much where a channel hardly changes within a frame, as in attended
rows. Equalised to their own peaks, all such channels fill the range, and a new frame leaves it in
many of them. So every frame is held against the others, as if it were the new one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

OF_ONE_FRAME = 1.5
"""Taken where there is no other frame to compare with."""
MOST = 4.0


@dataclass
class FramePeaks:
    """Largest magnitudes at one point, frame by frame."""

    tasks: dict[str, list[Array]] = field(default_factory=lambda: defaultdict(list))
    """Task to [frames, features] or [frames, 1]. Tasks that share the point have the same frames,
    so each is compared within itself."""

    def add(self, task: str, value: Tensor, by_feature: bool) -> None:
        """Count frames of values [frames, rows, features]."""
        peaks = value.abs().amax(1)
        if not by_feature:
            peaks = peaks.amax(1, keepdim=True)
        self.tasks[task].append(peaks.double().numpy())

    def growth(self) -> float:
        """Factor on the range of all frames that another frame needs, 1 to :data:`MOST`."""
        return max((_growth(np.concatenate(parts)) for parts in self.tasks.values()), default=1.0)


def _growth(peaks: Array) -> float:
    """What frames exceed the others by, channels equalised by the others: the mean, and half a
    standard deviation more, since what saturates costs more than a coarser step."""
    if len(peaks) < 2:
        return OF_ONE_FRAME
    total = peaks.sum(0)
    factors = []
    for number, own in enumerate(peaks):
        others = np.delete(peaks, number, 0)
        typical = total - own
        used = typical > 0
        if used.any():
            reached = (others[:, used] / typical[used]).max()
            factors.append(max(1.0, float((own[used] / typical[used]).max() / reached)))
    if not factors:
        return 1.0
    return min(float(np.mean(factors) + np.std(factors) / 2), MOST)
