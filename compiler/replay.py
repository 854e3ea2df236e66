"""Float runs of the rest of a graph, from any layer on, with other values at some points."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.float_reference import (
    Change,
    embed_patches,
    folded,
    run_float,
    run_head,
    run_layers,
)
from moesaic.compiler.points import is_stream, rows_of


class Replay:
    """A graph on some samples in float32, and what its output becomes where points change.

    Experts are chosen as in the undisturbed run: another choice would only add chance.

    Parameters
    ----------
    graph
        The graph.
    samples
        [frames, *graph.input_shape[1:]].

    Attributes
    ----------
    output
        [frames, rows, outputs] of the undisturbed run, before the output layout.
    """

    def __init__(self, graph: ir.Graph, samples: NDArray[np.float32]) -> None:
        self.graph = graph
        self.output = torch.empty(0)
        self._flat = torch.from_numpy(samples.reshape(len(samples), -1))
        self._fold = functools.cache(folded)
        self._states: list[Tensor] = []
        self._logits: dict[str, Tensor] = {}

        def keep(point: str, value: Tensor) -> None:
            if is_stream(point):
                self._states.append(value)
            elif point == "output":
                self.output = value
            elif point.endswith(".logits"):
                self._logits[point] = value

        run_float(graph, samples, keep, torch.float32)

    def run(self, changes: Mapping[str, Change], copies: int = 1) -> Tensor:
        """The output [copies, frames, rows, outputs] with the values of some points changed.

        Parameters
        ----------
        changes
            Point to what is made of its value, all copies of the frames at once: [copies *
            frames, ...], or of the rows that were routed to an expert, of each copy as many.
        copies
            Runs that are made as one batch.
        """
        graph, streams = self.graph, ir.stream_points(self.graph.layers)
        result = torch.empty(0)

        def changed(name: str, value: Tensor) -> Tensor:
            nonlocal result
            if name in changes:
                value = changes[name](value)
            elif name in self._logits:
                value = _copied(self._logits[name], copies)
            if name == "output":
                result = value.unflatten(0, (copies, -1))
            return value

        with torch.no_grad():
            start = min(self._layer(point) for point in changes)
            if start < 0:
                samples = _copied(self._flat, copies)
                state = embed_patches(graph, samples, changed, self._fold)
            else:
                state = _copied(self._states[start], copies)
            start = max(start, 0)
            state = changed(streams[start], state)
            state = run_layers(
                graph.layers[start:], state, start, changed, self._fold, streams[start]
            )
            run_head(graph, state, changed, self._fold)
        return result

    def _layer(self, point: str) -> int:
        """The layer to begin with for a point, which is in it or in one parallel to it; -1 for the
        embedding, and behind the last for the head."""
        first = point.split(".")[0]
        if first in ("input", "residual"):
            return -1
        layers = self.graph.layers
        return rows_of(layers, int(first)) if first.isdigit() else len(layers)


def _copied(value: Tensor, copies: int) -> Tensor:
    return torch.cat([value] * copies)
