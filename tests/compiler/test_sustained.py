"""What is said of a schedule that loads weights again, for a DRAM that sustains less."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.sustained import schedule_notes
from moesaic.compiler.estimate.task import estimate
from moesaic.compiler.schedule.options import Schedule, first_schedule
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.memory import BOARD_SHARE
from moesaic.spec.presets import PRESETS

from .random_intgraph import Shape, random_intgraph

ARCH = PRESETS["zcu102"]
ONCE = first_schedule(ARCH)
AGAIN = replace(ONCE, head_start=2)


def dense(tokens: int) -> IntGraph:
    """A network of dense layers; the fewer tokens, the more of its time goes into weights."""
    shape = Shape(
        tokens=tokens, patches=tokens - 1, head_rows=tokens - 1, channels=192, heads=3,
        head_dim=64, value_dim=64, moe=(False, False, False), hidden=768, wide=0.0, pairs=0.0,
        taps=0.0, functions=0.0,
    )  # fmt: skip
    return random_intgraph(shape, values=False)


def cycles(graph: IntGraph, schedule: Schedule, share: float) -> int:
    steps = compile_task(graph, ARCH, ShapeImage(ARCH), schedule).steps
    return estimate(steps, ARCH, graph.macs, memory=Memory(share=share)).cycles


@pytest.mark.parametrize("again", [AGAIN, replace(ONCE, row_blocks=2)])
def test_weights_loaded_again_are_spoken_of(again: Schedule) -> None:
    """And what is said holds. A head start is worth it with more."""
    graph = dense(66)
    (note,) = schedule_notes(graph, ARCH, again)
    saved = 1 - cycles(graph, ONCE, BOARD_SHARE) / cycles(graph, again, BOARD_SHARE)
    assert saved > 0.02
    said = re.search(r"takes (\d+)% fewer cycles \(--bandwidth 0.7\)$", note)
    assert said and int(said[1]) == round(100 * saved)
    if again == AGAIN:
        assert cycles(graph, again, 0.9) < cycles(graph, ONCE, 0.9)
    assert "sustains 80% of" in schedule_notes(graph, ARCH, again, Memory(share=0.8))[0]


def test_nothing_is_said_without_reason() -> None:
    """Weights that are loaded once; a schedule for a DRAM like the boards'; an array that has
    enough to do while weights are loaded again."""
    assert schedule_notes(dense(66), ARCH, ONCE) == []
    assert schedule_notes(dense(66), ARCH, AGAIN, Memory(share=BOARD_SHARE)) == []
    assert schedule_notes(dense(130), ARCH, AGAIN) == []


def test_rows_that_only_fit_in_blocks_are_no_choice() -> None:
    graph = dense(260)
    with pytest.raises(UserError, match="does not fit"):
        compile_task(graph, ARCH, ShapeImage(ARCH), ONCE)
    assert schedule_notes(graph, ARCH, replace(ONCE, row_blocks=8)) == []
