"""Runs the float model on the samples and keeps what the scales depend on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.float_reference import run_float
from moesaic.compiler.points import Site, sites
from moesaic.compiler.quant.moments import Moments
from moesaic.compiler.quant.ranges import Range
from moesaic.compiler.quant.share import Key, SharedPoints

CHUNK_FRAMES = 8
"""Frames per float run: bounds memory."""
REWRITTEN = ("query", "key", "value", "attention")
"""Points whose features are centred and equalised."""


@dataclass
class Statistics:
    """What one calibration run has seen; keys are representatives of shared points."""

    ranges: dict[Key, Range] = field(default_factory=lambda: defaultdict(Range))
    moments: dict[Key, Moments] = field(default_factory=dict)
    """At points that a linear layer reads."""
    addend: float = 0.0
    """Largest |output| of any layer that adds to the residual stream, before gate weights."""


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
            if point.endswith(".scores"):  # their scale follows from query and key
                return
            array = value.detach().numpy()
            key = shared.find(task, point)  # noqa: B023
            statistics.ranges[key].add(array)
            readers = by_source.get(point)  # noqa: B023
            if not readers:
                return
            rows = array.reshape(-1, array.shape[-1])
            statistics.moments.setdefault(key, Moments()).add(rows)
            for site in readers:
                if site.target == "residual":
                    addend = rows @ site.linear.weight.T + site.linear.bias
                    statistics.addend = max(statistics.addend, float(np.abs(addend).max()))

        for start in range(0, len(samples[task]), CHUNK_FRAMES):
            run_float(graph, samples[task][start : start + CHUNK_FRAMES], observe)
    return statistics


def channel_statistics(
    graphs: dict[str, ir.Graph],
    samples: dict[str, NDArray[np.float32]],
    shared: SharedPoints,
) -> dict[Key, Moments]:
    """Means and peaks per feature of queries, keys, values and attended rows, in float32."""
    seen: dict[Key, Moments] = {}
    for task, graph in graphs.items():

        def observe(point: str, value: Tensor) -> None:
            if point.endswith(REWRITTEN):
                moments = seen.setdefault(shared.find(task, point), Moments(pairs=False))  # noqa: B023
                moments.add(value.flatten(0, -2).numpy())

        for start in range(0, len(samples[task]), CHUNK_FRAMES):
            part = samples[task][start : start + CHUNK_FRAMES]
            run_float(graph, part, observe, torch.float32)
    return seen
