"""Chooses a task's schedule by the cost model."""

from __future__ import annotations

from dataclasses import replace

from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.task import estimate
from moesaic.compiler.schedule.options import Schedule, candidates, first_schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntGraph

LEAST_GAIN = 0.002
"""Share of the cycles that a choice must save: less is within the model's own error."""


def choose_schedule(graph: IntGraph, arch: ArchConfig, start: Schedule | None = None) -> Schedule:
    """Try one choice after the other, and keep each that the cost model finds faster, until none
    is.

    The estimates assume the memory of reported figures and experts that share the tokens: what
    a frame's routing will be is not known here. Only sizes count, so a model without values gets
    the schedule of the real one. The search begins at ``start``, by default
    :func:`~moesaic.compiler.schedule.options.first_schedule`.

    Raises
    ------
    UserError
        The model does not fit the architecture.
    """
    best = start or first_schedule(arch)
    least = _cycles(graph, arch, best)
    before = None
    while best != before:  # a choice may pay only once another one is made
        before = best
        for choice, values in candidates(arch).items():
            for value in values:
                tried = replace(best, **{choice: value})
                if tried == best:
                    continue
                try:
                    cycles = _cycles(graph, arch, tried)
                except UserError:  # it needs more memory than there is
                    continue
                if cycles < least * (1 - LEAST_GAIN):
                    best, least = tried, cycles
    return best


def _cycles(graph: IntGraph, arch: ArchConfig, schedule: Schedule) -> int:
    steps = compile_task(graph, arch, ShapeImage(arch), schedule).steps
    return estimate(steps, arch, graph.macs).cycles
