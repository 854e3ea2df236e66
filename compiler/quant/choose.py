"""The magnitude at which each int8 point saturates, chosen by the error at the task's output.

Of a tensor's values a few may be huge, and whether they matter only what follows can tell: clipped
activations of a pretrained transformer cost 10 dB at the output where the tensor's own squared
error hardly changes, and even that of the layer's output prefers to clip them. So the codes of one
point at a time are tried on float runs, with everything behind them.
"""

from __future__ import annotations

import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.float_reference import (
    embed_patches,
    folded,
    run_float,
    run_head,
    run_layer,
)
from moesaic.compiler.points import sites
from moesaic.compiler.quant.calibrate import Statistics
from moesaic.compiler.quant.scales import INT8_MAX, UINT8_MAX, hidden_codes
from moesaic.compiler.quant.share import Key, SharedPoints

VALUES = 200_000
"""Candidates are tried on so many values of the residual stream: a few frames of a large model,
all samples of a small one."""
LEAST_FRAMES = 4
MIXTURES = (0.0, 0.5, 1.0)
"""Candidates between the largest magnitude (0) and the clip of least squared error (1)."""
WIDER = ("residual", "output", "logits")
"""Ends of the names of points that have more than eight bits."""

_EXPERT = re.compile(r"\.expert\d+")


def choose_clips(
    graphs: Mapping[str, ir.Graph],
    samples: Mapping[str, NDArray[np.float32]],
    shared: SharedPoints,
    statistics: Statistics,
) -> dict[Key, float]:
    """Clip of every int8 point that the samples reached.

    The experts of a layer are tried together. A clip below the largest magnitude is taken where it
    lowers the error by more than chance: the logarithm of its ratio, frame by frame, is below zero
    by a standard deviation. So one frame with a huge value counts as one frame, and few frames
    decide little: what a sample reached, others will exceed.
    """
    errors: dict[Key, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    with torch.no_grad():
        for task, graph in graphs.items():
            rows = _evenly(samples[task], graph.tokens * graph.channels)
            for points, mixture, error in _Trials(task, graph, rows, shared, statistics).run():
                for point in points:
                    errors[shared.find(task, point)][mixture] += error
    return {
        key: _mixed(statistics, key, _best(tried))
        for key, tried in errors.items()
        if statistics.ranges[key].maximum > 0.0
    }


def _best(tried: Mapping[float, list[float]]) -> float:
    """The mixture whose logarithmic errors, one a frame, are surely the least; 0 if none is."""
    most = np.asarray(tried[0.0])

    def gain(mixture: float) -> float:
        ratio = np.asarray(tried[mixture]) - most
        return float(ratio.mean() + ratio.std())

    best = min(tried, key=lambda mixture: (gain(mixture), mixture))
    return best if gain(best) < 0.0 else 0.0


def _mixed(statistics: Statistics, key: Key, mixture: float) -> float:
    seen = statistics.ranges[key]
    return float(seen.maximum ** (1 - mixture) * seen.best_clip(INT8_MAX) ** mixture)


def _evenly(samples: NDArray[np.float32], values: int) -> NDArray[np.float32]:
    """As many of the samples as needed, spread over all; ``values`` is what one frame has."""
    wanted = max(LEAST_FRAMES, math.ceil(VALUES / values))
    return samples[:: math.ceil(len(samples) / wanted)]


def rounded(value: Tensor, point: str, clip: float) -> Tensor:
    """``value`` as 8-bit codes of a point that saturate at ``clip`` hold it."""
    if point.endswith("hidden"):
        step, zero = hidden_codes(clip)
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
        statistics: Statistics,
    ) -> None:
        self.task, self.graph, self.shared, self.statistics = task, graph, shared, statistics
        self.fold = functools.cache(folded)
        self.flat = torch.from_numpy(rows.reshape(len(rows), -1))
        self.states: list[Tensor] = []
        self.logits: dict[str, Tensor] = {}
        self.output = torch.empty(0)

        def keep(point: str, value: Tensor) -> None:
            if point == "residual":
                self.states.append(value)
            elif point == "output":
                self.output = value
            elif point.endswith(".logits"):
                self.logits[point] = value

        run_float(graph, rows, keep, torch.float32)

    def run(self) -> Iterable[tuple[list[str], float, list[float]]]:
        """Yield (points, mixture, logarithms of the frames' squared errors) of every trial."""
        groups: dict[str, list[str]] = defaultdict(list)
        for site in sites(self.graph):
            for point in (site.source, site.target):
                group = groups[_EXPERT.sub("", point)]
                if not point.endswith(WIDER) and point not in group:
                    group.append(point)
        for points in groups.values():
            seen = [self.statistics.ranges[self.shared.find(self.task, p)] for p in points]
            if not any(one.maximum for one in seen):
                continue
            if len(points) == 1 and seen[0].best_clip(INT8_MAX) == seen[0].maximum:
                continue  # there is nothing to choose
            errors = self._run(points) - self.output
            squared = errors.flatten(2).double().square().sum(2).clamp_min(1e-300).log()
            for mixture, logarithms in zip(MIXTURES, squared.tolist(), strict=True):
                yield points, mixture, logarithms

    def _run(self, points: list[str]) -> Tensor:
        """The output [mixtures, frames, rows, outputs] with some points rounded.

        Copies of the frames, one for each mixture, run as one batch.
        """
        graph, copies = self.graph, len(MIXTURES)
        clips = {
            point: [
                _mixed(self.statistics, self.shared.find(self.task, point), mixture)
                for mixture in MIXTURES
            ]
            for point in points
        }
        result = torch.empty(0)

        def replaced(name: str, value: Tensor) -> Tensor | None:
            nonlocal result
            if name == "output":
                result = value.unflatten(0, (copies, -1))
            if name in clips:
                # All copies choose the same experts, so that of routed rows each has as many.
                parts = zip(value.chunk(copies), clips[name], strict=True)
                return torch.cat([rounded(part, name, clip) for part, clip in parts])
            if name in self.logits:
                # The choice of experts is not at stake here: it would only add chance.
                return _copied(self.logits[name], copies)
            return None

        first = points[0].split(".")[0]
        start = int(first) if first.isdigit() else len(graph.layers) if first == "head" else 0
        state = _copied(self.states[start], copies)
        if first == "input":
            state = embed_patches(graph, _copied(self.flat, copies), replaced, self.fold)
        for number in range(start, len(graph.layers)):
            state = run_layer(graph.layers[number], state, str(number), replaced, self.fold)
        run_head(graph, state, replaced, self.fold)
        return result


def _copied(value: Tensor, copies: int) -> Tensor:
    return torch.cat([value] * copies)
