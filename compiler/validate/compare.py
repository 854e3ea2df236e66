"""Translation validation: the recognised float graph beside ONNX Runtime, layer by layer.

Every layer is run on the stream that the file itself computes in front of it, so that errors do not
add up and a difference is found where it begins. What float32 may differ is measured, not guessed:
the same layer is run in float64 and in float32, and their difference, with a margin, is the bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.float_reference import (
    Observe,
    embed_patches,
    lay_out,
    run_head,
    run_layers,
)
from moesaic.compiler.frontend.probe import expose_rest, expose_tensors
from moesaic.compiler.points import rows_of
from moesaic.compiler.validate.oracle import Oracle
from moesaic.compiler.validate.perturb import own_samples, perturbed
from moesaic.compiler.validate.rewritten import Original
from moesaic.compiler.validate.routing import ROUNDING, NearTies
from moesaic.spec.errors import UserError

SAFETY = 64.0
"""Times the measured error of float32: sums in another order and other functions' errors."""
MOST_ERROR = 0.05
"""Share of a row's peak: where float32 may be off by more, nothing can be compared."""
UNMEASURED = 2.0**-20
"""Share of a row's peak that float32 may be wrong by where every choice is a tie."""
LEAST_TIES = 8
"""If rounding settled so many ties, some of them would go as they do here."""


@dataclass
class Validation:
    """What was compared, and how far it came from the bound.

    Attributes
    ----------
    samples
        Inputs: calibration samples and perturbed ones.
    points
        Tensors that were compared for each: layers, and the outputs.
    worst
        Largest difference as a share of its bound.
    near_ties
        Tokens that went to other experts because their scores are equal but for rounding.
    unreached_experts
        Experts, in all layers, that no compared token went to: nothing is known of them.
    incomparable
        Tokens whose results float32 rounding alone may change by `MOST_ERROR`; left out.
    """

    samples: int
    points: int = 0
    worst: float = 0.0
    near_ties: int = 0
    unreached_experts: int = 0
    incomparable: int = 0


@dataclass(frozen=True)
class _Place:
    """A tensor that both compute: the stream in front of layer ``number``, or what a head makes of
    it."""

    number: int
    tensor: str
    head: int | None = None


def open_oracle(path: str | Path, graph: ir.Graph) -> Oracle:
    """Open the file that a graph was read from, with all tensors that can be compared as outputs;
    of a file whose front the host computes what follows it.

    Raises
    ------
    UserError
        ONNX Runtime refuses it.
    """
    inner = [stream.tensor for stream in graph.streams if stream is not None]
    ends = [head.tensor for head in graph.heads]
    if graph.front is not None:
        inner = [name for name in inner if name != graph.input_name]
        rest = expose_rest(graph.front.rest, [*inner, *ends], path)
        where = f"what follows {graph.input_name!r} of {path}"
        return Oracle(rest, where, graph.input_name, graph.front.outputs)
    model, own, rewritten = expose_tensors(path, [*inner, *ends], graph.choice)
    oracle = Oracle(model, str(path), graph.input_name, own)
    if rewritten is not None:
        oracle.original = Original(Path(path), rewritten, graph.input_name, own)
    return oracle


def validate(
    graph: ir.Graph, oracle: Oracle, samples: NDArray[np.float32], task: str = "default"
) -> Validation:
    """Compare a graph with the file that it was read from.

    Parameters
    ----------
    oracle
        Of :func:`open_oracle`.
    samples
        [n, ...]; the first few and inputs perturbed from them are run.

    Raises
    ------
    UserError
        They differ by more than float rounding: the first layer, the tensor, both values.
    """
    own = own_samples(samples, graph.tokens)
    rows = np.concatenate([own, perturbed(samples)])
    if oracle.original is not None:
        oracle.original.check(own, rows[len(own) :], task)
    measured = [oracle.run(own), oracle.run(rows[len(own) :], finite=False)]
    exact = {name: np.concatenate([run[name] for run in measured]) for name in measured[0]}
    flat = {name: value.reshape(len(rows), -1) for name, value in exact.items()}
    finite = np.all([np.isfinite(value).all(1) for value in flat.values()], axis=0)
    return _Comparison(graph, task, rows[finite], {k: v[finite] for k, v in flat.items()}).run()


class _Comparison:
    def __init__(
        self,
        graph: ir.Graph,
        task: str,
        rows: NDArray[np.float32],
        file: Mapping[str, NDArray[np.float32]],
    ) -> None:
        self.graph, self.task, self.rows, self.file = graph, task, rows, file
        self.result = Validation(samples=len(rows))

    def run(self) -> Validation:
        graph, known = self.graph, -1
        with torch.no_grad():
            for number, stream in enumerate(graph.streams):
                if stream is not None and stream.tensor != graph.input_name:
                    self._segment(known, number, _Place(number, stream.tensor))
                    known = number
            for number, head in enumerate(graph.heads):
                before = [n for n, s in enumerate(graph.streams[: head.depth + 1]) if s is not None]
                place = _Place(head.depth, head.tensor, number)
                self._segment(max(before, default=-1), head.depth, place)
        return self.result

    def _stream(self, number: int) -> Tensor:
        """Return the file's stream in front of a layer, float64 [samples, tokens, channels]."""
        stream, graph = self.graph.streams[number], self.graph
        assert stream is not None
        value = self.file[stream.tensor].astype(np.float64)
        value = value.reshape(len(value), graph.tokens, graph.channels)
        return torch.from_numpy(value if stream.offset is None else value - stream.offset)

    def _segment(self, start: int, end: int, place: _Place) -> None:
        """Run from the stream in front of layer ``start`` (-1: the input) to a place."""
        graph = self.graph
        layers = graph.layers[max(start, 0) : end]
        ties = NearTies(layers, max(start, 0), SAFETY)

        def compute(dtype: torch.dtype, observe: Observe) -> Tensor:
            if start < 0:
                flat = torch.from_numpy(self.rows.reshape(len(self.rows), -1)).to(dtype)
                state = embed_patches(graph, flat, observe)
            else:
                state = self._stream(start).to(dtype)
            state = run_layers(layers, state, max(start, 0), observe)
            if place.head is not None:
                result = run_head(graph, place.head, state, observe)
                return lay_out(graph.heads[place.head], result)[:, None]
            return state

        exact = compute(torch.float64, ties.observe)
        short = compute(torch.float32, ties.observe_short).double()
        if place.head is not None:
            value = torch.from_numpy(self.file[place.tensor].astype(np.float64))[:, None]
        else:
            value = self._stream(place.number)
        self.result.unreached_experts += ties.unreached
        updates = sum(not layer.parallel for layer in layers)
        self._compare(place, updates, exact, short, value, ties.tokens)

    def _compare(
        self,
        place: _Place,
        depth: int,
        exact: Tensor,
        short: Tensor,
        value: Tensor,
        near: Tensor | None,
    ) -> None:
        """Compare [samples, rows, columns]; the bound is relative to a row's largest value.

        ``near`` are tokens near a tie: behind the first of ``depth`` updates of the stream each
        stands alone; further on it has reached all others of its sample.
        """
        rows = torch.zeros(exact.shape[:2], dtype=torch.bool)
        if near is not None:
            rows |= near if depth == 1 and near.shape == rows.shape else near.any(1, True)
        peak = exact.abs().amax(-1, keepdim=True).clamp_min(1e-30)
        share = self._float_error(exact, short, peak, rows)
        ratio = (value - exact).abs() / (share * peak)
        lost = (share > MOST_ERROR).squeeze(-1)
        wrong = (ratio > 1).any(-1)
        missed = wrong & rows & ~lost
        if depth == 1 and int(missed.sum()) == int(rows.sum()) >= LEAST_TIES:
            missed[:] = False  # no rounding: the file settles ties in another way
        wrong &= ~missed & ~lost
        if wrong.any():
            self._refuse(place, ratio * wrong[..., None], exact, value)
        if 2 * int(lost.sum()) > lost.numel():
            raise UserError(
                f"task {self.task!r}, {self.graph.source}: {self._name(place)} cannot be compared:"
                f" float32 rounding alone may change its results by more than {MOST_ERROR:.0%};"
                " scale the model's values down"
            )
        self.result.points += 1
        self.result.near_ties += int(missed.sum())
        self.result.incomparable += int(lost.sum())
        self.result.worst = max(self.result.worst, _largest(ratio.amax(-1)[~missed & ~lost]))

    def _float_error(self, exact: Tensor, short: Tensor, peak: Tensor, near: Tensor) -> Tensor:
        """Return how far the file may be off, as a share of each row's peak, [samples, rows, 1].

        Measured in float32 where both made the same choices: a row's own error, or twice that of
        most rows.
        """
        measured = ((short - exact).abs() / peak).amax(-1, keepdim=True)
        settled = measured.squeeze(-1)[~near]
        usual = 2 * float(settled.median()) if settled.numel() else UNMEASURED
        share = torch.where(near[..., None], torch.tensor(0.0).double(), measured)
        share = share.clamp_min(max(usual, ROUNDING))
        return SAFETY * share

    def _name(self, place: _Place) -> str:
        layers = self.graph.layers
        if place.head is not None:
            return f"the head at {self.graph.heads[place.head].name!r}"
        if not place.number:
            return f"the patch embedding at {self.graph.embed.name!r}"
        first, last = rows_of(layers, place.number - 1), place.number - 1
        if first < last:
            return f"one of the parallel layers {first} to {last} at {layers[last].name!r}"
        return f"layer {last} at {layers[last].name!r}"

    def _refuse(self, place: _Place, ratio: Tensor, exact: Tensor, value: Tensor) -> None:
        where = np.unravel_index(int(ratio.argmax()), ratio.shape)
        sample, row, column = (int(index) for index in where)
        at_end = place.head is not None
        spot = f"element {column}" if at_end else f"token {row}, channel {column}"
        what = self._name(place)
        raise UserError(
            f"task {self.task!r}, {self.graph.source}: {what} was not recognised for what it is: in"
            f" tensor {place.tensor!r} ({spot}, sample {sample}) the file computes"
            f" {float(value[where]):.6g}, what was recognised {float(exact[where]):.6g}; export"
            " this part in a plainer form"
        )


def _largest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0
