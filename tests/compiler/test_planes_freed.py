"""16-bit planes that end before the int8 rows of the same NORM: same results, less memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.tuning import choose_schedule
from moesaic.compiler.schedule import memory
from moesaic.compiler.schedule.lower import lower
from moesaic.compiler.schedule.options import first_schedule, stored_schedule
from moesaic.compiler.schedule.places import Lifetime
from moesaic.compiler.schedule.steps import Step
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from tests.hazards import check_order

from .random_intgraph import Shape, random_intgraph
from .test_codegen import SHAPES as NETWORKS
from .test_codegen import SMALL, run_both

FREED = replace(first_schedule(SMALL), planes_freed=1)
TIGHT = replace(SMALL, activation_bytes=8 << 10, activation_banks=1)
MIXTURE = Shape(
    tokens=32, patches=32, patch_inputs=8, head_rows=32, head_first=0, channels=64, heads=1,
    head_dim=8, value_dim=8, moe=(True,), experts=4, expert_hidden=56, pairs=0.0, wide=0.0,
)  # fmt: skip
"""Its gate reads 768 of the 1024 words of TIGHT; rows and two experts need 704."""


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize(
    "name", ["default", "all_16_bits", "begins_anew", "all_8_bits", "parallel", "all_moe_top4"]
)
def test_networks_give_the_same(name: str, kept: int) -> None:
    graph, image = random_intgraph(NETWORKS[name], seed=len(name)), WeightImage(SMALL)
    schedule = replace(FREED, row_blocks=3 - 2 * kept, norms_kept=kept)
    code = compile_task(graph, SMALL, image, schedule)
    got, expected = run_both(graph, SMALL, code, image.tobytes(), 0)
    np.testing.assert_array_equal(got, expected)
    check_order(SMALL, code.program, range(2))


def test_search_frees_planes_for_an_expert_ahead() -> None:
    """Planes of a gate and the hidden rows of two experts do not fit; one after the other do."""
    graph, arch = random_intgraph(MIXTURE, values=False), TIGHT
    with pytest.raises(UserError, match="use a target with more activation_bytes"):
        compile_task(graph, arch, ShapeImage(arch), replace(FREED, planes_freed=0))
    schedule = choose_schedule(graph, arch)
    assert schedule.planes_freed and schedule.experts_ahead
    code = compile_task(graph, arch, ShapeImage(arch), schedule)
    check_order(arch, code.program, range(5))


def test_planes_freed_too_early_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts of 16 bits read the planes behind the gate: without them in the lifetime, hidden
    rows come into their place, results are wrong, and the check of the plan says so."""
    shape = replace(MIXTURE, wide=1.0)
    honest = memory.lifetimes

    def short(steps: list[Step], arch: ArchConfig) -> list[Lifetime]:
        entries = honest(steps, arch)
        for entry in entries:
            if entry.buffer.name.endswith("moe0.norm.wide"):
                entry.last = entry.first + 2  # its NORM, and the gate's MATMUL and DRAIN
        return entries

    graph, image = random_intgraph(shape, seed=1), WeightImage(TIGHT)
    monkeypatch.setattr(memory, "lifetimes", short)
    code = compile_task(graph, TIGHT, image, FREED)
    got, expected = run_both(graph, TIGHT, code, image.tobytes(), 0)
    assert (got != expected).any()
    monkeypatch.undo()
    with pytest.raises(AssertionError, match="overlap"):
        memory.check_plan(code.steps, TIGHT)
    with pytest.raises(UserError, match="use a target with more activation_bytes"):
        compile_task(graph, TIGHT, ShapeImage(TIGHT), FREED)


def test_planes_lie_behind_rows() -> None:
    steps = lower(random_intgraph(MIXTURE, values=False), SMALL, FREED)
    memory.plan_memory(steps, SMALL)
    buffer = next(
        access.buffer for step in steps for access in step.accesses
        if access.buffer and access.buffer.behind
    )  # fmt: skip
    assert buffer.behind
    buffer.behind.base += 1
    with pytest.raises(AssertionError, match="is not behind"):
        memory.check_plan(steps, SMALL)


def test_earlier_bundles_do_not_say_it() -> None:
    fields = {name: value for name, value in vars(FREED).items() if name != "planes_freed"}
    assert stored_schedule(SMALL, fields, "old") == replace(FREED, planes_freed=0)
    with pytest.raises(UserError, match="holds no schedule for small"):
        stored_schedule(SMALL, {**fields, "planes_freed": 2}, "odd")
