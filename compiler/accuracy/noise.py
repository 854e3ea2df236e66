"""What the rounding of each point costs at the output, alone and together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler.accuracy.reals import Rounding, in_reals
from moesaic.compiler.points import layer_point
from moesaic.compiler.quant.samples import spread
from moesaic.compiler.replay import Replay
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.metrics import ratio_db


@dataclass(frozen=True)
class PointNoise:
    """Of a point, or of the same point of all experts of a layer."""

    point: str
    noise: float
    """Error of the output that its rounding alone makes: squared, as a share of the signal."""

    @property
    def db(self) -> float:
        return ratio_db(1.0, self.noise)


class NoiseMeter:
    """Runs a graph with some of its points rounded.

    A float run with the integers' weights is the yardstick; experts are chosen as in that run.

    Parameters
    ----------
    graph
        What the integers are.
    samples
        [frames, *graph.input_shape[1:]], of which a few are taken.

    Attributes
    ----------
    roundings
        Point to its rounding.
    """

    def __init__(self, graph: IntGraph, samples: NDArray[np.float32]) -> None:
        reals, self.roundings = in_reals(graph)
        self._replay = Replay(reals, spread(samples, graph.tokens * graph.channels))

    def of(self, roundings: Mapping[str, Rounding]) -> float:
        """Error of the output, squared, as a share of the signal, with these roundings alone."""
        return _noise(self._replay.output, self._replay.run(roundings)[0])

    def of_each(self) -> list[PointNoise]:
        """Of every rounded point, the worst first."""
        groups: dict[str, dict[str, Rounding]] = defaultdict(dict)
        for point, rounding in self.roundings.items():
            groups[layer_point(point)][point] = rounding
        costs = [PointNoise(name, self.of(changes)) for name, changes in groups.items()]
        return sorted(costs, key=lambda cost: -cost.noise)


def noise_alone(graph: IntGraph, samples: NDArray[np.float32]) -> list[PointNoise]:
    """Of every rounded point, the worst first."""
    return NoiseMeter(graph, samples).of_each()


def _noise(exact: Tensor, rounded: Tensor) -> float:
    signal = float(exact.double().square().sum())
    error = float((rounded - exact).double().square().sum())
    if not signal:
        return math.inf if error else 0.0
    return error / signal
