"""One sentence where the integers are far from the floats: what is worst and what would help."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.accuracy.noise import worst_alone
from moesaic.compiler.points import WIDE_KINDS
from moesaic.compiler.quant.report import QuantReport
from moesaic.spec.intgraph import IntGraph

LEAST_SQNR_DB = 20.0
MOST_FLIPS = 0.05
"""Of a layer's tokens."""
MAIN_CAUSE = 0.25
"""Share of the noise that a point must make to be called the cause."""


def advise(
    graph: IntGraph, report: QuantReport, samples: NDArray[np.float32], output_db: float
) -> str | None:
    """Return the warning; None where nothing is wrong.

    Parameters
    ----------
    graph, report
        A task and what was measured at the end of the accelerator.
    samples
        Those that it was measured on.
    output_db
        SQNR of the task's output, behind what the host computes.
    """
    flips = max(report.routing_flips.values(), default=0.0)
    if min(report.sqnr_db, output_db) >= LEAST_SQNR_DB and flips <= MOST_FLIPS:
        return None
    noise = 10 ** (-report.sqnr_db / 10)
    worst = worst_alone(graph, samples)
    seen = f"SQNR {report.sqnr_db:.1f} dB at the end of the accelerator, {output_db:.1f} dB at the"
    seen += " output"
    if flips:
        layer = max(report.routing_flips, key=lambda name: report.routing_flips[name])
        seen += f", {flips:.1%} of the tokens choose another expert in {layer}"
    point = f"the worst point is {worst.point}, {worst.db:.1f} dB by itself"
    if worst.noise < MAIN_CAUSE * noise:
        cause = "no single point is the cause"
        cause += " (choices of experts are)" if flips > MOST_FLIPS else ""
        return f"{seen}; {point}, but {cause}: --target-sqnr gives 16 bits to the worst ones"
    if worst.point.endswith(WIDE_KINDS):
        return f"{seen}; {point}: --target-sqnr {LEAST_SQNR_DB:g} gives it 16 bits"
    return f"{seen}; {point}: it has no wider form; calibrate with more samples like those of use"
