"""Tokens under way between two units: never more than the gateware counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.tuning import fitting_schedule
from moesaic.compiler.schedule import tokens
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.options import Schedule, first_schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS
from tests.hazards import Hazard, check_order

from .random_intgraph import Shape, random_intgraph
from .test_codegen import SMALL, run_both

ONE = Shape(
    tokens=40, patches=40, head_rows=8, head_first=0, channels=48, moe=(False,), wide=0.0, taps=0.0,
    heads=2, head_dim=8, value_dim=8,
)  # fmt: skip
TINY = replace(SMALL, residual_bytes=256)
ROOMY = replace(SMALL, activation_bytes=192 << 10)
CASES: dict[str, tuple[Shape, ArchConfig, Schedule, int]] = {
    "blocks of a stream": (
        replace(ONE, tokens=80, patches=80), TINY, first_schedule(TINY), 1
    ),
    "blocks of frames": (ONE, TINY, first_schedule(TINY), 2),
    "heads in groups": (
        replace(ONE, value_dim=160),
        ROOMY,
        replace(first_schedule(ROOMY), head_groups=2, row_blocks=16, norms_kept=0),
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_long_programs_wait_for_more_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, arch, schedule, frames = CASES[name]
    graph = random_intgraph(shape, seed=1)
    image = WeightImage(arch)
    code = compile_task(Joint((graph,), frames), arch, image, schedule)
    check_order(arch, code.program, range(3))
    if frames == 1:
        np.testing.assert_array_equal(*run_both(graph, arch, code, image.tobytes(), 0))
    monkeypatch.setattr(tokens, "MOST_TOKENS", 1 << 16)
    with pytest.raises(Hazard, match="too many tokens"):
        check_order(
            arch,
            compile_task(Joint((graph,), frames), arch, WeightImage(arch), schedule).program,
            [0],
        )


def test_neighbours_join_only_where_the_giver_has_ended() -> None:
    given = [(number, 100 + number) for number in range(100)]
    ends = list(range(200))
    fewer = tokens._fewer(given, ends, 20)
    assert tokens._under_way(given) == 100 and tokens._under_way(fewer) <= 20
    for earlier, later in given:  # each is proven by one that comes no later
        assert any(giver >= earlier and taker <= later for giver, taker in fewer)
    late = [200] * 200
    assert tokens._fewer(given, late, 20) == given


def test_what_cannot_be_counted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, arch, schedule, _ = CASES["blocks of a stream"]
    monkeypatch.setattr(tokens, "_fewer", lambda given, ends, most: given)
    with pytest.raises(UserError, match=r"unit would be \d+ steps ahead of the \w+ unit, 54 are"):
        compile_task(random_intgraph(shape, values=False), arch, ShapeImage(arch), schedule)


def test_small_blocks_leave_room_for_what_comes_back() -> None:
    """A tile row of 256 columns takes as much as five of the stream; there is plenty beside."""
    arch = replace(
        SMALL, width=256, ring_read_bytes=256, ring_bytes=1 << 14, activation_banks=2,
        accumulator_rows=256, residual_bytes=256 << 10, max_tokens=256, activation_bytes=64 << 10,
    )  # fmt: skip
    shape = replace(ONE, tokens=80, patches=80, heads=16, head_dim=24, value_dim=24, hidden=16)
    graph = random_intgraph(shape, values=False)
    schedule, _ = fitting_schedule(graph, arch, first_schedule(arch))
    assert schedule.head_groups > 1


def test_small_arrays_hold_large_networks() -> None:
    """DeiT-S at 224 on a KV260: 40 blocks of rows, and 168 STOREs before the first LOAD."""
    shape = Shape(
        tokens=197, patches=196, channels=384, heads=6, head_dim=64, value_dim=64, hidden=1536,
        moe=(False,), taps=0.0, head_rows=1, head_first=0, wide=0.0,
    )  # fmt: skip
    arch, graph = PRESETS["kv260"], random_intgraph(shape, values=False)
    schedule, _ = fitting_schedule(graph, arch, first_schedule(arch))
    check_order(arch, compile_task(graph, arch, ShapeImage(arch), schedule).program, [0])
    assert schedule.head_groups > 1
