"""From float graphs to integer graphs: calibration, scales, integer weights, measurement.

1. ``fold``: LayerNorm's gamma and beta go into the next linear layers.
2. ``share``: points of several tasks around equal weights become one.
3. ``calibrate``: float runs on the samples collect ranges.
4. ``scales``: every point gets a step: least squared error for int8, headroom elsewhere.
5. ``build``: weights, biases, multipliers and shifts; every accumulator proven to fit int32.
6. ``measure``: integer against float on the samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.ir import Graph
from moesaic.compiler.quant.build import Builder, Done
from moesaic.compiler.quant.calibrate import calibrate
from moesaic.compiler.quant.fold import fold_norms
from moesaic.compiler.quant.measure import Comparison, make_report
from moesaic.compiler.quant.report import PointReport, QuantReport
from moesaic.compiler.quant.samples import check_samples
from moesaic.compiler.quant.scales import RESIDUAL_HEADROOM, Scales
from moesaic.compiler.quant.share import SharedPoints
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntGraph

__all__ = ["PointReport", "QuantReport", "quantise", "quantise_tasks"]

SAMPLES_MEASURED = 32
"""Samples on which integer and float are compared, at most: all count for the ranges."""
HEADROOM_FACTOR = 1.5
HEADROOM_TRIES = 4


def quantise(
    graph: Graph, samples: NDArray[np.floating], task: str
) -> tuple[IntGraph, QuantReport]:
    """Quantise one task: :func:`quantise_tasks` with a single entry."""
    graphs, reports = quantise_tasks({task: graph}, {task: samples})
    return graphs[task], reports[task]


def quantise_tasks(
    graphs: dict[str, Graph], samples: dict[str, NDArray[np.floating]]
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
    checked = {task: check_samples(task, graph, samples) for task, graph in graphs.items()}
    folded = {task: fold_norms(graph) for task, graph in graphs.items()}
    shared = SharedPoints(folded)
    statistics = calibrate(folded, checked, shared)
    headroom = RESIDUAL_HEADROOM
    for _ in range(HEADROOM_TRIES):
        scales, done = Scales(statistics, shared, headroom, folded), Done()
        built = {task: Builder(task, graph, scales, done).build() for task, graph in folded.items()}
        runs = {
            task: Comparison(graph, built[task], checked[task][:SAMPLES_MEASURED])
            for task, graph in folded.items()
        }
        if not any(run.saturated for run in runs.values()):
            reports = {
                task: make_report(task, graph, scales, runs[task]) for task, graph in folded.items()
            }
            return built, reports
        # The integer run left the float run's range, through a flipped expert for example.
        headroom *= HEADROOM_FACTOR
    raise UserError(
        f"{', '.join(graphs)}: the residual stream must stay in 16 bits on the samples, but leaves"
        " them at any scale: the model's integer form is unstable on these samples"
    )
