"""Float runs of the rest of a graph, from any layer on, with other values at some points."""

from __future__ import annotations

import functools
import math
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
    run_outputs,
    run_rest,
)
from moesaic.compiler.points import first_layer, head_number, is_output, is_stream


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
        [frames, values] of the undisturbed run, before the output layout: of all heads, which are
        scaled to the mean square of the first, so that their errors count alike.
    """

    def __init__(self, graph: ir.Graph, samples: NDArray[np.float32]) -> None:
        self.graph = graph
        self._flat = torch.from_numpy(samples.reshape(len(samples), -1))
        self._fold = functools.cache(folded)
        self._states: list[Tensor] = []
        self._logits: dict[str, Tensor] = {}
        self._outputs: dict[int, Tensor] = {}

        def keep(point: str, value: Tensor) -> None:
            if is_stream(point):
                self._states.append(value)
            elif is_output(point):
                self._outputs[head_number(point)] = value
            elif point.endswith(".logits"):
                self._logits[point] = value

        run_outputs(graph, samples, keep, torch.float32)
        powers = [float(self._outputs[n].double().square().mean()) for n in sorted(self._outputs)]
        self._weights = [math.sqrt(powers[0] / one) if one else 1.0 for one in powers]
        self.output = self._joined(self._outputs)

    def _joined(self, outputs: Mapping[int, Tensor]) -> Tensor:
        """All heads' [frames, rows, outputs] as [frames, values]."""
        parts = [outputs[number].flatten(1) * weight for number, weight in enumerate(self._weights)]
        return torch.cat(parts, 1)

    def run(self, changes: Mapping[str, Change], copies: int = 1) -> Tensor:
        """:attr:`output` [copies, frames, values] with the values of some points changed.

        Parameters
        ----------
        changes
            Point to what is made of its value, all copies of the frames at once: [copies *
            frames, ...], or of the rows that were routed to an expert, of each copy as many.
        copies
            Runs that are made as one batch.
        """
        graph, streams = self.graph, ir.stream_points(self.graph.layers)
        start = min(first_layer(graph, point) for point in changes)
        # Heads in front of all changes keep what they gave.
        outputs = {
            number: _copied(value, copies)
            for number, value in self._outputs.items()
            if graph.heads[number].depth < start
        }

        def changed(name: str, value: Tensor) -> Tensor:
            if name in changes:
                value = changes[name](value)
            elif name in self._logits:
                value = _copied(self._logits[name], copies)
            if is_output(name):
                outputs[head_number(name)] = value
            return value

        with torch.no_grad():
            if start < 0:
                samples = _copied(self._flat, copies)
                state = embed_patches(graph, samples, changed, self._fold)
            else:
                state = _copied(self._states[start], copies)
            start = max(start, 0)
            run_rest(graph, changed(streams[start], state), start, changed, self._fold)
            return self._joined(outputs).unflatten(0, (copies, -1))


def _copied(value: Tensor, copies: int) -> Tensor:
    return torch.cat([value] * copies)
