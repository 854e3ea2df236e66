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

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.ir import Graph
from moesaic.compiler.quant.calibrated import Calibrated, Wide, rewrite_tasks
from moesaic.compiler.quant.options import QuantOptions
from moesaic.compiler.quant.report import PointReport, QuantReport
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntGraph

__all__ = [
    "Calibrated",
    "PointReport",
    "QuantOptions",
    "QuantReport",
    "Wide",
    "quantise",
    "quantise_tasks",
    "rewrite_tasks",
]


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
    held_out: dict[str, NDArray[np.floating]] | None = None,
    wide: Wide | None = None,
) -> tuple[dict[str, IntGraph], dict[str, QuantReport]]:
    """Quantise tasks that may share weights.

    Linear layers that are equal in two tasks (same place, weights and bias after folding) get
    equal integer tensors, so that they need be stored once.

    Parameters
    ----------
    graphs, samples, options, held_out
        As :class:`Calibrated`; all options are on by default.
    wide
        Task name to the points that have 16 bits: normalised, attended and hidden rows,
        queries.

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
    return Calibrated(graphs, samples, options or QuantOptions(), held_out).build(wide)
