"""Tasks that are ready to become integers: rewritten, calibrated, ranges chosen.

Built once, they can become integers several times, with other points in 16 bits: what is not
concerned stays as it was built first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.ir import Graph
from moesaic.compiler.quant.build import Builder, Done
from moesaic.compiler.quant.calibrate import Channels, calibrate, channel_statistics
from moesaic.compiler.quant.choose import choose_clips
from moesaic.compiler.quant.given import has_given
from moesaic.compiler.quant.measure import Comparison, make_report
from moesaic.compiler.quant.options import QuantOptions
from moesaic.compiler.quant.outliers import leave_out_outliers
from moesaic.compiler.quant.report import QuantReport
from moesaic.compiler.quant.samples import (
    check_held_out,
    check_samples,
    split_held_out,
    spread,
)
from moesaic.compiler.quant.scales import RESIDUAL_HEADROOM, Scales
from moesaic.compiler.quant.share import Key, SharedPoints
from moesaic.compiler.quant.suspicions import suspicions
from moesaic.compiler.quant.weight_bits import Few
from moesaic.compiler.rewrite import (
    centre,
    check_rewritten,
    crest,
    equalise,
    fold_norms,
    rotate_residual,
)
from moesaic.compiler.verify import verify, verify_integers
from moesaic.spec.errors import UserError
from moesaic.spec.heartbeat import Progress, say_nothing
from moesaic.spec.intgraph import IntGraph

Wide = Mapping[str, Collection[str]]
"""Task to the points that it holds in 16 bits."""

SAMPLES_MEASURED = 32
"""Samples on which integer and float are compared, at most."""
WORTH_ROTATING = 0.95
"""A rotation is left out where it hardly changes how far values stand out."""
HEADROOM_FACTOR = 1.5
HEADROOM_TRIES = 4


class Calibrated:
    """All of quantisation that does not depend on which points have 16 bits.

    Parameters
    ----------
    graphs
        Task name to float graph. They are left as they are.
    samples
        Task name to calibration inputs [n, *input_shape[1:]], finite and not constant.
    options
        What is done besides rounding.
    held_out
        Task name to inputs that calibration does not see: integers are measured on these. Without
        them on the calibration samples.
    hold_out
        Without ``held_out``, keep every fourth of eight or more samples from calibration.
    progress
        Told what is being done.

    Raises
    ------
    UserError
        Samples or weights are unusable.
    """

    def __init__(
        self,
        graphs: dict[str, Graph],
        samples: Mapping[str, NDArray[np.floating]],
        options: QuantOptions,
        held_out: Mapping[str, NDArray[np.floating]] | None = None,
        *,
        hold_out: bool = False,
        progress: Progress = say_nothing,
    ) -> None:
        self._say = progress
        if any(has_given(graph) for graph in graphs.values()):
            # What a quantised file gives holds for its tensors as they are.
            options = options.without(["rotate", "centre", "equalise"])
        self.options = options
        checked = {task: check_samples(task, graph, samples) for task, graph in graphs.items()}
        self.notes: dict[str, Sequence[str]] = {}
        measured: dict[str, NDArray[np.float32]] = {}
        for task, rows in checked.items():
            kept, odd = leave_out_outliers(rows)
            aside = kept[:0]
            if held_out is not None:
                aside = check_held_out(task, graphs[task], held_out)
            elif hold_out:
                kept, aside = split_held_out(kept)
            if len(aside):
                measured[task] = aside
            checked[task] = kept
            self.notes[task] = [*odd, *suspicions(graphs[task], kept, aside)]
        self.held_out = bool(measured)
        self.samples = checked
        self.measured = {
            task: measured.get(task, rows)[:SAMPLES_MEASURED] for task, rows in checked.items()
        }
        progress("rewriting")
        self.graphs = rewrite_tasks(graphs, checked, options)
        self.shared = SharedPoints(self.graphs)
        progress("calibrating")
        self.statistics = calibrate(self.graphs, checked, self.shared)
        self.clips: dict[Key, float] = {}
        if options.ranges:
            self.clips = choose_clips(self.graphs, checked, self.shared, self.statistics, progress)
        self._done = Done()
        self.few: Few = {}
        """Layers whose weights have four bits, in what is built next."""

    def scales(self, residual_headroom: float = RESIDUAL_HEADROOM) -> Scales:
        """Steps of all points."""
        return Scales(self.statistics, self.shared, self.clips, self.graphs, residual_headroom)

    def build(self, wide: Wide | None = None) -> tuple[dict[str, IntGraph], dict[str, QuantReport]]:
        """Integer graph and what was measured, by task; ``wide`` points in 16 bits.

        Raises
        ------
        UserError
            A layer does not fit the integer formats.
        """
        wide = wide or {}
        headroom = RESIDUAL_HEADROOM
        for _ in range(HEADROOM_TRIES):
            self._say("rounding weights")
            scales = self.scales(headroom)
            built = {
                task: verify_integers(
                    Builder(
                        task,
                        graph,
                        scales,
                        self.options,
                        self._done,
                        wide.get(task, ()),
                        self.few.get(task, ()),
                    ).build(),
                    "rounding",
                )
                for task, graph in self.graphs.items()
            }
            self._say("running in float and in integers")
            runs = {
                task: Comparison(graph, built[task], self.measured[task])
                for task, graph in self.graphs.items()
            }
            if not any(run.saturated for run in runs.values()):
                reports = {
                    task: make_report(
                        task,
                        graph,
                        scales,
                        runs[task],
                        self.options,
                        wide=wide.get(task, ()),
                        held_out=self.held_out,
                        notes=self.notes[task],
                    )
                    for task, graph in self.graphs.items()
                }
                return built, reports
            # The integer run left the float run's range, through a flipped expert for example.
            headroom *= HEADROOM_FACTOR
        raise UserError(
            f"{', '.join(self.graphs)}: the residual stream must stay in 16 bits on the samples,"
            " but leaves them at any scale: the model's integer form is unstable on these samples"
        )


def rewrite_tasks(
    graphs: dict[str, Graph], samples: dict[str, NDArray[np.float32]], options: QuantOptions
) -> dict[str, Graph]:
    """Return the same functions with norms folded and the exact rewrites of the options; the stream
    is rotated where that makes its values more alike."""
    result = {task: verify(fold_norms(graph), "folding") for task, graph in graphs.items()}
    if options.rotate:
        rotated = {
            task: verify(rotate_residual(graph), "rotating") for task, graph in result.items()
        }
        # All tasks or none: rotated alike, equal weights stay equal.
        if _crest(rotated, samples) < WORTH_ROTATING * _crest(result, samples):
            result = rotated
    if options.centre:
        shared = SharedPoints(result)
        seen = channel_statistics(result, samples, shared)
        for task, graph in result.items():
            centred = centre(graph, _lookup(seen, shared, task, Channels.mean))
            result[task] = verify(centred, "centring")
    if options.equalise:
        shared = SharedPoints(result)
        seen = channel_statistics(result, samples, shared)
        for task, graph in result.items():
            peaks = _lookup(seen, shared, task, Channels.typical_peaks)
            result[task] = verify(equalise(graph, peaks), "equalising")
    for task, graph in graphs.items():
        check_rewritten(task, graph, result[task], samples[task])
    return result


def _crest(graphs: dict[str, Graph], samples: dict[str, NDArray[np.float32]]) -> float:
    """:func:`crest` of all tasks together, on some of their samples."""
    return sum(
        crest(graph, spread(samples[task], graph.tokens * graph.channels))
        for task, graph in graphs.items()
    )


def _lookup(
    seen: dict[Key, Channels],
    shared: SharedPoints,
    task: str,
    what: Callable[[Channels], NDArray[np.float64]],
) -> Callable[[str], NDArray[np.float64]]:
    """``what`` of a task's points, as the rewrites ask for it."""
    return lambda point: what(seen[shared.find(task, point)])
