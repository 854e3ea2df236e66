"""Runs the float model on the samples and keeps what the scales depend on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.float_reference import run_float
from moesaic.compiler.quant.points import Site, sites
from moesaic.compiler.quant.ranges import Range
from moesaic.compiler.quant.share import Key, SharedPoints

CHUNK_FRAMES = 8
"""Frames per float run: bounds memory."""


@dataclass
class Power:
    """Mean square of each feature of the rows [*, features] at a point."""

    rows: int = 0
    total: NDArray[np.float64] | float = 0.0

    def add(self, rows: NDArray[np.float64]) -> None:
        """Count rows [*, features]."""
        self.rows += len(rows)
        self.total = self.total + (rows * rows).sum(0)

    def mean(self, features: int) -> NDArray[np.float64]:
        """[features]; all ones if there was no row."""
        if self.rows == 0:
            return np.ones(features)
        return np.broadcast_to(np.asarray(self.total) / self.rows, features)


@dataclass
class Statistics:
    """What one calibration run has seen; keys are representatives of shared points."""

    ranges: dict[Key, Range] = field(default_factory=lambda: defaultdict(Range))
    powers: dict[Key, Power] = field(default_factory=lambda: defaultdict(Power))
    """At points that a linear layer reads."""
    addend: float = 0.0
    """Largest |output| of any layer that adds to the residual stream, before gate weights."""


def calibrate(
    graphs: dict[str, ir.Graph], samples: dict[str, NDArray[np.float32]], shared: SharedPoints
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
            rows = array.reshape(-1, readers[0].linear.inputs)
            statistics.powers[key].add(rows)
            for site in readers:
                if site.target == "residual":
                    addend = rows @ site.linear.weight.T + site.linear.bias
                    statistics.addend = max(statistics.addend, float(np.abs(addend).max()))

        for start in range(0, len(samples[task]), CHUNK_FRAMES):
            run_float(graph, samples[task][start : start + CHUNK_FRAMES], observe)
    return statistics
