"""The search of a schedule: it tries each once, and takes none whose program has no bits."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest

from moesaic.compiler.codegen.task import Placed, compile_task, plan_task
from moesaic.compiler.estimate import trial, tuning
from moesaic.compiler.estimate.bound import least_cycles
from moesaic.compiler.estimate.cycles.ports import weight_port
from moesaic.compiler.estimate.cycles.timing import Memory, Timing
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.shared import ddr_memory
from moesaic.compiler.estimate.task import estimate, frame_cycles
from moesaic.compiler.estimate.trial import Trial, Trials
from moesaic.compiler.estimate.tuning import choose_schedule
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.lower import lower
from moesaic.compiler.schedule.options import Schedule, candidates, first_schedule
from moesaic.spec.errors import UserError
from moesaic.spec.memory import Dram
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.compiler.test_codegen import SHAPES, SMALL

GRAPH = random_intgraph(SHAPES["default"], seed=3)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Schedule]:
    """Every schedule whose cycles are estimated."""
    found: list[Schedule] = []
    estimated = Trials.estimate

    def watched(trials: Trials, schedule: Schedule, *args: Any) -> Any:
        found.append(schedule)
        return estimated(trials, schedule, *args)

    monkeypatch.setattr(Trials, "estimate", watched)
    return found


def test_no_schedule_is_tried_twice(tried: list[Schedule]) -> None:
    best = choose_schedule(GRAPH, SMALL)
    assert best in tried and len(tried) > 8
    assert len(set(tried)) == len(tried)


def test_cycles_alone_are_those_of_the_estimate() -> None:
    steps = compile_task(GRAPH, SMALL, ShapeImage(SMALL)).steps
    assert frame_cycles(steps, SMALL) == estimate(steps, SMALL, GRAPH.macs).cycles


MEMORIES = {
    "reported": Memory(),
    "slow": Memory(latency=200, share=0.3, gap=1.0),
    "shared": ddr_memory(SMALL, Dram("DDR4-2400", 2400, 64), 200),
}


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("shape", ["dense", "all_moe_top4", "lists", "all_16_bits", "one_token"])
def test_no_estimate_is_below_its_bound(shape: str, memory: str) -> None:
    """Neither before places are known, nor while the estimate goes on, and both bounds are of use;
    a number instead of an estimate is none that would be taken."""
    graph, behind = random_intgraph(SHAPES[shape], seed=2), MEMORIES[memory]
    for choice, values in candidates(SMALL).items():
        schedule = replace(first_schedule(SMALL), **{choice: values[-1]})
        steps = compile_task(graph, SMALL, ShapeImage(SMALL), schedule).steps
        cycles = frame_cycles(steps, SMALL, behind)
        least = least_cycles(lower(graph, SMALL, schedule), SMALL, behind)
        assert 0.1 * cycles < least <= cycles
        for below in (cycles + 1, cycles + 1000):
            assert frame_cycles(steps, SMALL, behind, below) == cycles
        for below in (cycles, 0.99 * cycles, 0.5 * cycles, 1):
            assert below <= frame_cycles(steps, SMALL, behind, below) <= cycles


@pytest.mark.parametrize("memory", MEMORIES)
def test_no_port_is_quicker_than_its_bound(memory: str) -> None:
    """However long it is idle, and nobody takes its last beat, between transfers."""
    rng, close = np.random.default_rng(1), 0
    for _ in range(200):
        port = weight_port(MEMORIES[memory], Timing.of(SMALL))
        sizes = rng.integers(1, 400, rng.integers(1, 6))
        idle = rng.choice([0, 0, 50, 400], 2 * len(sizes))
        for number, size in enumerate(sizes):
            least = port.least(sizes[number:].sum())
            ahead = copy(port)
            for left, before, after in zip(
                sizes[number:], idle[2 * number :: 2], idle[2 * number + 1 :: 2], strict=True
            ):
                ahead.serve(left, ahead.time + before)
                last = ahead.time
                ahead.hold(last + after)
            assert least <= last + 1e-6
            close += last - least < 0.01 * last
            port.serve(size, port.time + idle[2 * number])
            port.hold(port.time + idle[2 * number + 1])
    assert close > 20


@pytest.mark.parametrize("target", ["nano", "zcu102"])
@pytest.mark.parametrize("shape", ["default", "dense", "wide_heads"])
def test_what_is_left_out_changes_no_choice(
    shape: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same schedule is chosen where every trial is planned anew and estimated to its end."""
    graph, arch = random_intgraph(SHAPES[shape], seed=4, values=False), PRESETS[target]
    for memory in (None, MEMORIES["slow"]):
        quick = choose_schedule(graph, arch, memory=memory)
        with monkeypatch.context() as patch:
            patch.setattr(Trials, "run", _whole_trial)
            patch.setattr(tuning, "_choices", lambda joint, arch, best: candidates(arch, best))
            assert choose_schedule(graph, arch, memory=memory) == quick


def _whole_trial(
    trials: Trials, schedule: Schedule, known: object = None, below: float = inf
) -> Trial | None:
    """A trial by the program of the compiler and the whole estimate."""
    plan = plan_task(trials.joint, trials.arch, ShapeImage(trials.arch), schedule)
    cycles = estimate(plan.steps, trials.arch, trials.joint.macs, memory=trials.memory).cycles
    placed = Placed(plan.steps, plan.activation_words)
    return Trial(schedule, placed, plan, cycles) if cycles < below else None


def test_steps_are_shared_where_only_fetches_differ() -> None:
    trials = Trials(Joint.of(GRAPH), SMALL)
    first = trials.run(first_schedule(SMALL))
    assert first
    fetches = replace(first.schedule, fetches_ahead=1, speculated_experts=0)
    other = trials.run(fetches, first)
    assert other and other.placed is first.placed
    anew = trials.run(fetches)
    assert anew and anew.placed is not first.placed and anew.cycles == other.cycles
    tiles = trials.run(replace(first.schedule, bank_tiles=2), first)
    assert tiles and tiles.placed is not first.placed


def test_schedule_that_has_no_bits_is_not_chosen(
    tried: list[Schedule], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = first_schedule(SMALL)
    # The second one is found faster than the first, and all others as it is.
    monkeypatch.setattr(trial, "least_cycles", lambda steps, arch, memory: 0)
    monkeypatch.setattr(
        trial, "frame_cycles", lambda steps, arch, memory, below: 1000 // min(len(tried), 2)
    )
    assert choose_schedule(GRAPH, SMALL, start) != start
    encode, first = tuning.encode_program, []

    def fails(steps: Any, arch: Any) -> bytes:
        if len(first) == 2:  # of the first trial, before and after fetches are dealt out
            raise UserError("a size exceeds its field")
        first.append(1)
        return encode(steps, arch)

    monkeypatch.setattr(tuning, "encode_program", fails)
    tried.clear()
    assert choose_schedule(GRAPH, SMALL, start) == start and len(tried) > 3


def test_size_that_no_schedule_helps_is_refused_without_an_estimate(tried: list[Schedule]) -> None:
    """Three hundred of them took a minute."""
    graph = random_intgraph(Shape(outputs=1024 * 32 + 1, taps=0.0), values=False)
    with pytest.raises(UserError, match="MATMUL field groups must be below 1024"):
        choose_schedule(graph, SMALL)
    assert not tried
