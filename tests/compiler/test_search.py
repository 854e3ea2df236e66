"""The search of a schedule: it tries each once, and takes none whose program has no bits."""

from __future__ import annotations

from typing import Any

import pytest

from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate import tuning
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.task import estimate, frame_cycles
from moesaic.compiler.estimate.tuning import choose_schedule
from moesaic.compiler.schedule.options import Schedule, first_schedule
from moesaic.spec.errors import UserError
from tests.compiler.random_intgraph import random_intgraph
from tests.compiler.test_codegen import SHAPES, SMALL

GRAPH = random_intgraph(SHAPES["default"], seed=3)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Schedule]:
    """Every schedule that is estimated."""
    found: list[Schedule] = []
    plan = tuning._planned

    def watched(graph: Any, arch: Any, schedule: Schedule, frames: int) -> Any:
        found.append(schedule)
        return plan(graph, arch, schedule, frames)

    monkeypatch.setattr(tuning, "_planned", watched)
    return found


def test_no_schedule_is_tried_twice(tried: list[Schedule]) -> None:
    best = choose_schedule(GRAPH, SMALL)
    assert best in tried and len(tried) > 8
    assert len(set(tried)) == len(tried)


def test_cycles_alone_are_those_of_the_estimate() -> None:
    steps = compile_task(GRAPH, SMALL, ShapeImage(SMALL)).steps
    assert frame_cycles(steps, SMALL) == estimate(steps, SMALL, GRAPH.macs).cycles


def test_schedule_that_has_no_bits_is_not_chosen(
    tried: list[Schedule], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = first_schedule(SMALL)
    # The second one is found faster than the first, and all others as it is.
    monkeypatch.setattr(
        tuning, "frame_cycles", lambda steps, arch, memory: 1000 // min(len(tried), 2)
    )
    assert choose_schedule(GRAPH, SMALL, start) != start
    encode, first = tuning.encode_program, []

    def fails(steps: Any, arch: Any) -> bytes:
        if first:
            raise UserError("a size exceeds its field")
        first.append(1)
        return encode(steps, arch)

    monkeypatch.setattr(tuning, "encode_program", fails)
    tried.clear()
    assert choose_schedule(GRAPH, SMALL, start) == start and len(tried) > 3
