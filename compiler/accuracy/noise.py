"""What the rounding of each point costs at the output, alone and together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler.accuracy.reals import Rounding, in_reals
from moesaic.compiler.points import layer_point
from moesaic.compiler.quant.samples import LEAST_FRAMES, spread
from moesaic.compiler.replay import Replay
from moesaic.compiler.threads import map_on_cores
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
    frames
        At least so many of them, if there are.

    Attributes
    ----------
    roundings
        Point to its rounding.
    """

    def __init__(
        self, graph: IntGraph, samples: NDArray[np.float32], frames: int = LEAST_FRAMES
    ) -> None:
        reals, self.roundings = in_reals(graph)
        self._replay = Replay(reals, spread(samples, graph.tokens * graph.channels, frames))
        self._signal = _energy(self._replay.output)

    def of(self, roundings: Mapping[str, Rounding]) -> float:
        """Error of the output, squared, as a share of the signal, with these roundings alone."""
        signal, error = float(self._signal.sum()), float(self._error(roundings).sum())
        if not signal:
            return math.inf if error else 0.0
        return error / signal

    def typical(self, roundings: Mapping[str, Rounding]) -> float:
        """The same of the median frame.

        Now and then a frame has a token that is just about to become an outlier, and any error
        decides whether it does. Such a frame says nothing about the rounding, and outweighs all
        others in their sum.
        """
        shares = self._error(roundings) / self._signal.clamp_min(torch.finfo(torch.float64).tiny)
        return float(shares.median())

    def by_layer_point(self) -> dict[str, dict[str, Rounding]]:
        """The roundings, those of a layer's experts together."""
        groups: dict[str, dict[str, Rounding]] = defaultdict(dict)
        for point, rounding in self.roundings.items():
            groups[layer_point(point)][point] = rounding
        return groups

    def of_each(self, points: Mapping[str, Mapping[str, Rounding]]) -> list[PointNoise]:
        """Of roundings by any name, the worst first."""
        noises = map_on_cores(self.of, points.values())
        costs = [PointNoise(name, noise) for name, noise in zip(points, noises, strict=True)]
        return sorted(costs, key=lambda cost: -cost.noise)

    def _error(self, roundings: Mapping[str, Rounding]) -> Tensor:
        """Energy [frames] of what they change."""
        return _energy(self._replay.run(roundings)[0] - self._replay.output)


def noise_alone(graph: IntGraph, samples: NDArray[np.float32]) -> list[PointNoise]:
    """Of every rounded point, the worst first."""
    meter = NoiseMeter(graph, samples)
    return meter.of_each(meter.by_layer_point())


def worst_alone(graph: IntGraph, samples: NDArray[np.float32]) -> PointNoise:
    """What is the first of :func:`noise_alone` if errors add up, in a few runs instead of one for
    each point.

    Errors of different points hardly depend on one another: those of a layer together make about
    the sum of what they make alone, so that layers with less than the worst point are passed over.
    Where they cancel instead, the worst point may be passed over, too.
    """
    meter = NoiseMeter(graph, samples)
    layers: dict[str, dict[str, dict[str, Rounding]]] = defaultdict(dict)
    for name, own in meter.by_layer_point().items():
        layers[name.partition(".")[0]][name] = own
    together = {
        layer: {k: v for own in points.values() for k, v in own.items()}
        for layer, points in layers.items()
    }
    worst: PointNoise | None = None
    for layer in meter.of_each(together):
        if worst is not None and layer.noise < worst.noise:
            break
        found = meter.of_each(layers[layer.point])[0]
        worst = found if worst is None or found.noise > worst.noise else worst
    assert worst is not None, "a graph rounds at least its input"
    return worst


def _energy(output: Tensor) -> Tensor:
    """Sum of the squares of each frame [frames] of an output, float64."""
    return output.double().square().flatten(1).sum(1)
