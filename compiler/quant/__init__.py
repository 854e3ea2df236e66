"""From float graphs to integer graphs: exact rewrites, calibration, scales, integer weights.

1. ``rewrite_tasks``: the same functions in a form that loses less (``compiler.rewrite``).
2. ``share``: points of several tasks around equal weights become one.
3. ``calibrate``: float runs on the samples collect ranges and moments.
4. ``choose``: where each int8 point saturates, by the error behind it.
5. ``scales``: every point gets a step; headroom where codes have more bits.
6. ``build``: weights, biases, multipliers and shifts; every accumulator proven to fit int32.
7. ``measure``: integer against float on the samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.ir import Graph
from moesaic.compiler.quant.build import Builder, Done
from moesaic.compiler.quant.calibrate import Statistics, calibrate, channel_statistics
from moesaic.compiler.quant.choose import choose_clips
from moesaic.compiler.quant.given import has_given
from moesaic.compiler.quant.measure import Comparison, make_report
from moesaic.compiler.quant.moments import Moments
from moesaic.compiler.quant.options import QuantOptions
from moesaic.compiler.quant.report import PointReport, QuantReport
from moesaic.compiler.quant.samples import check_samples
from moesaic.compiler.quant.scales import RESIDUAL_HEADROOM, Scales
from moesaic.compiler.quant.share import Key, SharedPoints
from moesaic.compiler.rewrite import (
    centre,
    check_rewritten,
    equalise,
    fold_norms,
    rotate_residual,
)
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntGraph

__all__ = ["PointReport", "QuantOptions", "QuantReport", "quantise", "quantise_tasks"]

SAMPLES_MEASURED = 32
"""Samples on which integer and float are compared, at most: all count for the ranges."""
HEADROOM_FACTOR = 1.5
HEADROOM_TRIES = 4


def quantise(
    graph: Graph,
    samples: NDArray[np.floating],
    task: str,
    options: QuantOptions | None = None,
) -> tuple[IntGraph, QuantReport]:
    """Quantise one task: :func:`quantise_tasks` with a single entry."""
    graphs, reports = quantise_tasks({task: graph}, {task: samples}, options)
    return graphs[task], reports[task]


def quantise_tasks(
    graphs: dict[str, Graph],
    samples: dict[str, NDArray[np.floating]],
    options: QuantOptions | None = None,
) -> tuple[dict[str, IntGraph], dict[str, QuantReport]]:
    """Quantise tasks that may share weights.

    Linear layers that are equal in two tasks (same place, weights and bias after folding) get
    equal integer tensors, so that they need be stored once.

    Parameters
    ----------
    graphs
        Task name to float graph. They are left as they are.
    samples
        Task name to calibration inputs [n, *input_shape[1:]], finite and not constant.
    options
        What is done besides rounding; everything by default.

    Returns
    -------
    Task name to integer graph, and task name to what was measured on its samples.

    Raises
    ------
    UserError
        Samples or weights are unusable, or a layer does not fit the integer formats.
    """
    if not graphs:
        raise UserError("no graph to quantise: give at least one task")
    options = options or QuantOptions()
    if any(has_given(graph) for graph in graphs.values()):
        # What a quantised file gives holds for its tensors as they are.
        options = options.without(["rotate", "centre", "equalise"])
    checked = {task: check_samples(task, graph, samples) for task, graph in graphs.items()}
    rewritten = rewrite_tasks(graphs, checked, options)
    shared = SharedPoints(rewritten)
    statistics = calibrate(rewritten, checked, shared)
    clips = choose_clips(rewritten, checked, shared, statistics) if options.ranges else {}
    return _build(rewritten, checked, options, shared, statistics, clips)


def rewrite_tasks(
    graphs: dict[str, Graph], samples: dict[str, NDArray[np.float32]], options: QuantOptions
) -> dict[str, Graph]:
    """Return the same functions with norms folded and the exact rewrites of the options."""
    result = {task: fold_norms(graph) for task, graph in graphs.items()}
    if options.rotate:
        result = {task: rotate_residual(graph) for task, graph in result.items()}
    if options.centre:
        shared = SharedPoints(result)
        seen = channel_statistics(result, samples, shared)
        for task, graph in result.items():
            result[task] = centre(graph, _lookup(seen, shared, task, Moments.mean))
    if options.equalise:
        shared = SharedPoints(result)
        seen = channel_statistics(result, samples, shared)
        for task, graph in result.items():
            result[task] = equalise(graph, _lookup(seen, shared, task, Moments.peaks))
    for task, graph in graphs.items():
        check_rewritten(task, graph, result[task], samples[task])
    return result


def _lookup(
    seen: dict[Key, Moments],
    shared: SharedPoints,
    task: str,
    what: Callable[[Moments, int], NDArray[np.float64]],
) -> Callable[[str], NDArray[np.float64]]:
    """``what`` of a task's points, as the rewrites ask for it."""

    def of(point: str) -> NDArray[np.float64]:
        moments = seen[shared.find(task, point)]
        assert moments.total is not None
        return what(moments, len(moments.total))

    return of


def _build(
    graphs: dict[str, Graph],
    samples: dict[str, NDArray[np.float32]],
    options: QuantOptions,
    shared: SharedPoints,
    statistics: Statistics,
    clips: dict[Key, float],
) -> tuple[dict[str, IntGraph], dict[str, QuantReport]]:
    headroom = RESIDUAL_HEADROOM
    for _ in range(HEADROOM_TRIES):
        scales, done = Scales(statistics, shared, clips, headroom, graphs), Done()
        built = {
            task: Builder(task, graph, scales, options, done).build()
            for task, graph in graphs.items()
        }
        runs = {
            task: Comparison(graph, built[task], samples[task][:SAMPLES_MEASURED])
            for task, graph in graphs.items()
        }
        if not any(run.saturated for run in runs.values()):
            reports = {
                task: make_report(task, graph, scales, runs[task], options)
                for task, graph in graphs.items()
            }
            return built, reports
        # The integer run left the float run's range, through a flipped expert for example.
        headroom *= HEADROOM_FACTOR
    raise UserError(
        f"{', '.join(graphs)}: the residual stream must stay in 16 bits on the samples, but leaves"
        " them at any scale: the model's integer form is unstable on these samples"
    )
