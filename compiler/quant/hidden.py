"""Which channels of hidden rows are far larger than the others, and how large those are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler.quant.growth import MOST, OF_ONE_FRAME

Array = NDArray[np.float64]

MOST_FRAMES = 32
"""Frames that are held against the others."""


@dataclass
class HiddenPeaks:
    """Largest magnitudes of hidden rows, channel by channel."""

    frames: list[Array] = field(default_factory=list)
    """[channels] of each frame, or of all rows at once that were routed to an expert."""
    routed: bool = False

    def add(self, value: Tensor) -> None:
        """Count frames [frames, rows, channels], or an expert's rows [rows, channels]."""
        if not value.numel():
            return
        self.routed = value.dim() == 2
        peaks = value.abs().amax(0, keepdim=True) if self.routed else value.abs().amax(1)
        self.frames += list(peaks.double().numpy())

    def largest(self, count: int) -> NDArray[np.intp]:
        """The ``count`` channels with the largest magnitudes, in their order."""
        peaks = np.max(self.frames, 0)
        return np.sort(np.argsort(-peaks, kind="stable")[:count])

    def reach_of_others(self, count: int) -> float:
        """Magnitude that the channels without the ``count`` largest will hardly exceed.

        Every frame is held against the others, as if it were the new one: a channel that is small
        in all of them may be large in it.
        """
        peaks = np.array(self.frames)
        reach = _largest_of_others(peaks, peaks, count)
        if self.routed or len(peaks) < 2:
            return reach * OF_ONE_FRAME
        factors = []
        for number in range(0, len(peaks), math.ceil(len(peaks) / MOST_FRAMES)):
            seen = np.delete(peaks, number, 0)
            if before := _largest_of_others(seen, seen, count):
                factors.append(_largest_of_others(seen, peaks[number : number + 1], count) / before)
        return reach * min(max([1.0, *factors]), MOST)


def _largest_of_others(seen: Array, peaks: Array, count: int) -> float:
    """Of ``peaks`` without the ``count`` channels that are the largest in ``seen``."""
    order = np.argsort(-seen.max(0), kind="stable")
    return float(peaks[:, order[count:]].max(initial=0.0))
