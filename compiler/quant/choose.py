"""The magnitude at which each int8 point saturates, chosen by the error at the task's output.

Of a tensor's values a few may be huge, and whether they matter only what follows can tell: clipped
activations of a pretrained transformer cost 10 dB at the output where the tensor's own squared
error hardly changes, and even that of the layer's output prefers to clip them. So the codes of one
point at a time are tried on float runs, with everything behind them.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.float_reference import Change
from moesaic.compiler.points import layer_point, mlps, sites
from moesaic.compiler.quant.calibrate import Statistics, is_wider
from moesaic.compiler.quant.hidden_codes import INT8_MAX, UINT8_MAX, hidden_codes
from moesaic.compiler.quant.ranges import Range
from moesaic.compiler.quant.samples import spread
from moesaic.compiler.quant.share import Key, SharedPoints
from moesaic.compiler.replay import Replay
from moesaic.compiler.threads import map_on_cores
from moesaic.spec.heartbeat import Progress, say_nothing

MIXTURES = (0.0, 0.5, 1.0)
"""Candidates between the largest magnitude (0) and the clip of least squared error (1)."""


def choose_clips(
    graphs: Mapping[str, ir.Graph],
    samples: Mapping[str, NDArray[np.float32]],
    shared: SharedPoints,
    statistics: Statistics,
    progress: Progress = say_nothing,
) -> dict[Key, float]:
    """Clip of every int8 point that the samples reached.

    The experts of a layer are tried together. A clip below the largest magnitude is taken where it
    lowers the error by more than chance: the logarithm of its ratio, frame by frame, is below zero
    by a standard deviation. So one frame with a huge value counts as one frame, and few frames
    decide little: what a sample reached, others will exceed.
    """
    errors: dict[Key, list[list[float]]] = defaultdict(lambda: [[] for _ in MIXTURES])
    candidates = functools.cache(lambda key: _candidates(statistics.ranges[key]))
    for number, (task, graph) in enumerate(graphs.items()):
        rows = spread(samples[task], graph.tokens * graph.channels)
        trials = _Trials(task, graph, rows, shared, candidates)
        for points, found in trials.run():
            progress("choosing ranges", (number + trials.share) / len(graphs))
            for point in points:
                for tried, error in zip(errors[shared.find(task, point)], found, strict=True):
                    tried += error
    return {
        key: candidates(key)[_best(tried)]
        for key, tried in errors.items()
        if statistics.ranges[key].maximum > 0.0
    }


def _candidates(seen: Range) -> list[float]:
    """Clips of :data:`MIXTURES`, the largest magnitude first."""
    best = seen.best_clip(INT8_MAX)
    return [float(seen.maximum ** (1 - mixture) * best**mixture) for mixture in MIXTURES]


def _best(tried: Sequence[Sequence[float]]) -> int:
    """Of candidates, the one whose logarithmic errors, one a frame, are surely the least; 0 if none
    is."""
    ratios = np.asarray(tried) - np.asarray(tried[0])
    gains = ratios.mean(1) + ratios.std(1)
    return int(gains.argmin()) if gains.min() < 0.0 else 0


def rounded(value: Tensor, clip: float, mlp: ir.Mlp | None = None) -> Tensor:
    """``value`` as 8-bit codes of a point, the hidden one of ``mlp``, that saturate at ``clip``."""
    if mlp is not None:
        step, zero = hidden_codes(mlp, clip)
        lowest, highest = -zero, UINT8_MAX - zero
    else:
        step = clip / INT8_MAX
        lowest, highest = -INT8_MAX - 1, INT8_MAX
    return torch.floor(value / step + 0.5).clamp_(lowest, highest) * step


class _Trials:
    """All points of one task."""

    def __init__(
        self,
        task: str,
        graph: ir.Graph,
        rows: NDArray[np.float32],
        shared: SharedPoints,
        candidates: Callable[[Key], list[float]],
    ) -> None:
        self.task, self.graph, self.shared, self.candidates = task, graph, shared, candidates
        self.replay = Replay(graph, rows)
        self._mlps = dict(mlps(graph))
        self.share = 0.0
        """Of the trials' time: each runs the layers behind its point."""

    def run(self) -> Iterable[tuple[list[str], list[list[float]]]]:
        """Yield points and logarithms of the squared errors, of each candidate one a frame."""
        groups: dict[str, list[str]] = defaultdict(list)
        for site in sites(self.graph):
            for point in (site.source, site.target):
                group = groups[layer_point(point)]
                if not is_wider(point) and point != "input" and point not in group:
                    group.append(point)
        tried = [points for points in groups.values() if self._is_open(points)]
        for number, (points, errors) in enumerate(
            zip(tried, map_on_cores(self._errors, tried), strict=True), 1
        ):
            self.share = 1.0 - (1.0 - number / len(tried)) ** 2
            yield points, errors

    def _is_open(self, points: list[str]) -> bool:
        """Whether there is anything to choose."""
        clips = [self.candidates(self.shared.find(self.task, point)) for point in points]
        return any(largest for largest, *_ in clips) and (
            len(points) > 1 or clips[0][0] != clips[0][-1]
        )

    def _errors(self, points: list[str]) -> list[list[float]]:
        changes = {point: self._rounding(point) for point in points}
        errors = self.replay.run(changes, len(MIXTURES)) - self.replay.output
        logarithms: list[list[float]] = (
            errors.double().square().sum(2).clamp_min(1e-300).log().tolist()
        )
        return logarithms

    def _rounding(self, point: str) -> Change:
        """Rounds the copies of the frames to one candidate each."""
        clips = self.candidates(self.shared.find(self.task, point))
        mlp = self._mlps.get(point)

        def change(value: Tensor) -> Tensor:
            parts = zip(value.chunk(len(clips)), clips, strict=True)
            return torch.cat([rounded(part, clip, mlp) for part, clip in parts])

        return change
