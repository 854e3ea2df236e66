"""Runs the float model on the samples and keeps what the scales depend on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.float_reference import run_outputs
from moesaic.compiler.points import Site, is_output, is_stream, sites
from moesaic.compiler.quant.growth import FramePeaks
from moesaic.compiler.quant.hidden import HiddenPeaks
from moesaic.compiler.quant.moments import Moments
from moesaic.compiler.quant.ranges import Range
from moesaic.compiler.quant.share import Key, SharedPoints

CHUNK_FRAMES = 8
"""Frames per float run: bounds memory."""
REWRITTEN = ("query", "key", "value", "attention")
"""Points whose features are centred and equalised."""
_WIDER = ("residual", "logits", "active", "factor")


def is_wider(point: str) -> bool:
    """Whether a point has more than eight bits whoever asks."""
    return point.endswith(_WIDER) or is_output(point)


@dataclass
class Statistics:
    """What one calibration run has seen; keys are representatives of shared points."""

    ranges: dict[Key, Range] = field(default_factory=lambda: defaultdict(Range))
    moments: dict[Key, Moments] = field(default_factory=dict)
    """At points that a linear layer reads."""
    frames: dict[Key, FramePeaks] = field(default_factory=lambda: defaultdict(FramePeaks))
    """At int8 points whose rows are those of a frame, which an expert's are not."""
    hidden: dict[Key, HiddenPeaks] = field(default_factory=lambda: defaultdict(HiddenPeaks))
    input_bounds: dict[Key, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest value of the inputs."""
    addends: dict[Key, float] = field(default_factory=lambda: defaultdict(float))
    """Largest |output| of any layer that adds to a residual stream, before gate weights."""

    def growth(self, key: Key) -> float:
        """How many times a point's range another frame may need; 1 where that is not known."""
        return self.frames[key].growth() if key in self.frames else 1.0


def calibrate(
    graphs: dict[str, ir.Graph],
    samples: dict[str, NDArray[np.float32]],
    shared: SharedPoints,
) -> Statistics:
    """Run every task on its samples (both keyed by task) and merge what shared points see."""
    statistics = Statistics()
    for task, graph in graphs.items():
        by_source: dict[str, list[Site]] = defaultdict(list)
        for site in sites(graph):
            by_source[site.source].append(site)

        def observe(point: str, value: Tensor) -> None:
            if point.endswith((".scores", ".probability")):  # not quantised by a step of their own
                return
            array = value.detach().numpy()
            key = shared.find(task, point)  # noqa: B023
            statistics.ranges[key].add(array)
            if value.dim() == 3 and not is_wider(point):
                statistics.frames[key].add(task, value, point.endswith(REWRITTEN))  # noqa: B023
            if point == "input":
                low, high = statistics.input_bounds.get(key, (np.inf, -np.inf))
                bounds = min(low, float(array.min())), max(high, float(array.max()))
                statistics.input_bounds[key] = bounds
            if point.endswith("hidden"):
                statistics.hidden[key].add(value)
            readers = by_source.get(point)  # noqa: B023
            if not readers:
                return
            rows = array.reshape(-1, array.shape[-1])
            statistics.moments.setdefault(key, Moments()).add(rows)
            for site in readers:
                if is_stream(site.target):
                    stream = shared.find(task, site.target)  # noqa: B023
                    addend = rows @ site.linear.weight.T + site.linear.bias
                    largest = max(statistics.addends[stream], float(np.abs(addend).max()))
                    statistics.addends[stream] = largest

        for start in range(0, len(samples[task]), CHUNK_FRAMES):
            run_outputs(graph, samples[task][start : start + CHUNK_FRAMES], observe)
    return statistics


@dataclass
class Channels:
    """What the frames have in the channels [features] of a point."""

    frames: int = 0
    total: NDArray[np.float64] | float = 0.0
    peaks: NDArray[np.float64] | float = 0.0

    def add(self, value: Tensor) -> None:
        """Count frames [frames, rows, features]."""
        self.frames += len(value)
        self.total = self.total + value.mean(1).sum(0).double().numpy()
        self.peaks = self.peaks + value.abs().amax(1).sum(0).double().numpy()

    def mean(self) -> NDArray[np.float64]:
        return np.asarray(self.total / self.frames)

    def typical_peaks(self) -> NDArray[np.float64]:
        """Largest magnitude of a frame, on average.

        Unlike the largest of all frames, not the work of one of them: what the others leave of
        the range is there for frames to come.
        """
        return np.asarray(self.peaks / self.frames)


def channel_statistics(
    graphs: dict[str, ir.Graph],
    samples: dict[str, NDArray[np.float32]],
    shared: SharedPoints,
) -> dict[Key, Channels]:
    """Means and peaks per feature of queries, keys, values and attended rows, in float32."""
    seen: dict[Key, Channels] = defaultdict(Channels)
    for task, graph in graphs.items():

        def observe(point: str, value: Tensor) -> None:
            if point.endswith(REWRITTEN):
                seen[shared.find(task, point)].add(value)  # noqa: B023

        for start in range(0, len(samples[task]), CHUNK_FRAMES):
            part = samples[task][start : start + CHUNK_FRAMES]
            run_outputs(graph, part, observe, torch.float32)
    return seen
