"""Shapes at every edge of every preset: refused in one sentence, or right in any order of units."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate import tuning
from moesaic.compiler.estimate.cycles.frame import ProgramHangs
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.task import estimate
from moesaic.compiler.estimate.tuning import choose_schedule
from moesaic.compiler.schedule import memory
from moesaic.compiler.schedule.lower import lower
from moesaic.compiler.schedule.options import first_schedule
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS
from tests.functional import Deadlock
from tests.hazards import Hazard, OrderModel, check_order

from .capacity_shapes import GROWING, Case, capacity_cases, fits
from .random_intgraph import Shape, random_intgraph
from .test_codegen import SMALL, run_both

SHAPES_PER_PRESET = 200
LIMITS = {
    "the scratchpad has": "activation words",
    "the activation scratchpad has": "activation words",
    "the residual scratchpad has": "residual words",
    "a row of scores takes": "accumulator rows",
    "an accumulator bank has": "accumulator rows",
    "accumulator rows for its logits": "accumulator rows",
    "accumulator_rows and more": "accumulator rows",
    "rows of an instruction": "a field of an instruction",
    "the router holds": "experts or tokens of the router",
    "the router at most": "choices",
    "must be below": "a field of an instruction",
    "of a normalisation": "a field of an instruction",
}


def check_case(case: Case, seed: int) -> str:
    """Says "fits", or the limit that the shape exceeds; anything else is an error."""
    graph = random_intgraph(case.shape, values=False)
    try:
        code = compile_task(graph, case.arch, ShapeImage(case.arch), case.schedule)
    except UserError as error:
        text = str(error)
        assert text.startswith(f"the model does not fit target {case.arch.name}: "), text
        return next(limit for needle, limit in LIMITS.items() if needle in text)
    assert estimate(code.steps, case.arch, graph.macs).cycles > 0
    check_order(case.arch, code.program, [seed])
    return "fits"


@cache
def outcomes(name: str) -> tuple[Counter[str], dict[str, set[bool]]]:
    """Of a preset's shapes: how many fit or exceed which limit, and by the size that was grown to
    an edge whether they did."""
    found: Counter[str] = Counter()
    grown: dict[str, set[bool]] = {size: set() for size in GROWING}
    for seed, case in enumerate(capacity_cases(PRESETS[name], SHAPES_PER_PRESET, seed=11)):
        try:
            outcome = check_case(case, seed)
        except Exception as error:
            error.add_note(f"{case}")
            raise
        found[outcome] += 1
        grown[case.grown].add(outcome == "fits")
    return found, grown


@pytest.mark.parametrize("name", PRESETS)
def test_no_shape_at_a_limit_hangs(name: str) -> None:
    """By the cost model, and by tokens and places in random order of the units."""
    found, _ = outcomes(name)
    print(dict(found))
    assert found.total() == SHAPES_PER_PRESET
    assert 0.3 * SHAPES_PER_PRESET < found["fits"] < 0.95 * SHAPES_PER_PRESET
    assert len(found) > 4


def test_limits_are_met_on_several_presets() -> None:
    """All of them, and sizes grow beyond some: but heads, whose number ends before any limit."""
    limits = Counter(limit for name in PRESETS for limit in outcomes(name)[0])
    assert limits.keys() == {"fits", *LIMITS.values()}
    assert min(limits.values()) > 2, limits
    for size in set(GROWING) - {"heads"}:
        assert set().union(*(outcomes(name)[1][size] for name in PRESETS)) == {True, False}, size


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_search_at_a_limit_finds_a_schedule_that_runs(preset: ArchConfig) -> None:
    """What fits with some schedule is never refused, and what is chosen is no slower."""
    found: Counter[str] = Counter()
    for case in capacity_cases(preset, 8, seed=12):
        graph = random_intgraph(case.shape, values=False)
        try:
            schedule = choose_schedule(graph, case.arch)
        except UserError:
            assert not fits(case.shape, case.arch, case.schedule), case
            assert not fits(case.shape, case.arch), case
            found["refused"] += 1
            continue
        code = compile_task(graph, case.arch, ShapeImage(case.arch), schedule)
        cycles = estimate(code.steps, case.arch, graph.macs).cycles
        check_order(case.arch, code.program, [1])
        found["chosen"] += 1
        if fits(case.shape, case.arch):
            first = compile_task(graph, case.arch, ShapeImage(case.arch))
            assert cycles <= estimate(first.steps, case.arch, graph.macs).cycles, case
        else:
            found["only another schedule fits"] += 1
    print(dict(found))
    assert found["chosen"] > 2


@pytest.mark.parametrize("preset", [*PRESETS.values(), SMALL], ids=lambda arch: arch.name)
def test_values_at_a_limit_are_right(preset: ArchConfig) -> None:
    """The functional model beside the integer graph, for those that are quick to run."""
    run = 0
    for seed, case in enumerate(capacity_cases(preset, 80, seed=13)):
        graph = random_intgraph(case.shape, values=False)
        if graph.macs > 1e6 or not fits(case.shape, case.arch, case.schedule, seed):
            continue
        graph = random_intgraph(case.shape, seed)
        image = WeightImage(case.arch)
        code = compile_task(graph, case.arch, image, case.schedule)
        got, expected = run_both(graph, case.arch, code, image.tobytes(), seed)
        np.testing.assert_array_equal(got, expected, err_msg=f"{case}")
        run += 1
        if run == 8:
            return
    raise AssertionError(f"only {run} shapes were run")


def tight(extra: int) -> tuple[Shape, ArchConfig]:
    """A dense layer whose hidden activations fill the scratchpad beside their source."""
    arch = PRESETS["nano"]
    shape = Shape(
        tokens=32, patches=32, head_rows=32, head_first=0, channels=16, heads=1, head_dim=16,
        value_dim=16, patch_inputs=16, outputs=16, moe=(False,), hidden=0, wide=0.0,
    )  # fmt: skip
    words = arch.activation_words // 32 - 1 + extra  # of a row, beside that of the source
    return replace(shape, hidden=words * arch.depth), arch


def test_source_lives_until_its_drain_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that frees the source of a MATMUL at the MATMUL hangs, and every model sees it."""
    shape, arch = tight(0)
    assert fits(shape, arch)
    shape, arch = tight(1)
    graph = random_intgraph(shape, values=False)
    with pytest.raises(UserError, match="mlp0.hidden0 need 65536 bytes beside 512 live ones"):
        compile_task(graph, arch, ShapeImage(arch))
    assert choose_schedule(graph, arch).row_blocks > 1  # fewer hidden rows at a time do fit
    monkeypatch.setattr(tuning, "ROW_BLOCKS", ())
    with pytest.raises(UserError, match="mlp0.hidden0 need 65536 bytes beside 512 live ones"):
        choose_schedule(graph, arch)
    monkeypatch.setattr(memory, "ends_by_itself", lambda matmul, arch: True)
    code = compile_task(graph, arch, ShapeImage(arch))
    with pytest.raises(ProgramHangs):
        estimate(code.steps, arch, graph.macs)
    with pytest.raises(Deadlock):
        OrderModel(arch, code.program).run()
    # The search takes a schedule that hangs for one that does not fit.
    with pytest.raises(UserError, match="the model does not fit target nano: the units wait"):
        choose_schedule(graph, arch)


def test_plan_that_hangs_is_refused_by_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, arch = tight(1)
    steps = lower(random_intgraph(shape, values=False), arch, first_schedule(arch))
    with monkeypatch.context() as patch:
        patch.setattr(memory, "ends_by_itself", lambda matmul, arch: True)
        memory.plan_memory(steps, arch)
    # As lifetimes, and as the rule on what a drain may write.
    with pytest.raises(AssertionError, match="overlap"):
        memory.check_plan(steps, arch)
    monkeypatch.setattr(memory, "lifetimes", lambda steps, arch: [])
    with pytest.raises(AssertionError, match="mlp0: DRAIN waits for a MATMUL that ends after it"):
        memory.check_plan(steps, arch)


def test_source_of_few_groups_may_be_drained_over() -> None:
    """Two groups of two tiles fit banks and parameter buffer: their MATMUL ends by itself, and
    its source is free for its DRAIN. One tile a group does not fit, so the search takes two."""
    arch = replace(SMALL, activation_bytes=4 << 10, activation_banks=2)
    shape = Shape(
        tokens=32, patches=32, head_rows=32, head_first=0, channels=8, heads=1, head_dim=8,
        value_dim=8, patch_inputs=8, outputs=8, moe=(False,), hidden=128, wide=0.0,
    )  # fmt: skip
    graph = random_intgraph(shape, values=False)
    with pytest.raises(UserError, match="mlp0.hidden0 need 4096 bytes beside 256 live ones"):
        compile_task(graph, arch, ShapeImage(arch))
    schedule = choose_schedule(graph, arch)
    assert schedule.bank_tiles == 2
    code = compile_task(graph, arch, ShapeImage(arch), schedule)
    assert code.activation_words == arch.activation_words
    check_order(arch, code.program, range(20))


def test_order_model_sees_missing_tokens() -> None:
    """Leave out tokens one at a time: most change what somebody reads, or leave units waiting."""
    shape = Shape(tokens=12, patches=12, head_rows=12, head_first=0, functions=0.0, pairs=0.0)
    code = compile_task(random_intgraph(shape, values=False), SMALL, ShapeImage(SMALL))
    check_order(SMALL, code.program, range(20))
    size, caught, tried = isa.INSTRUCTION_BYTES, 0, 0
    parts = [code.program[i : i + size] for i in range(0, len(code.program), size)]
    for index, raw in enumerate(parts):
        instruction = isa.decode(raw)
        for unit in isa.Unit:
            if not instruction.values["wait"] >> unit & 1:
                continue
            values = {k: v for k, v in instruction.values.items() if k != "opcode"}
            values["wait"] &= ~(1 << unit)
            damaged = [*parts]
            damaged[index] = isa.encode(instruction.opcode, **values)
            tried += 1
            try:
                check_order(SMALL, b"".join(damaged), range(200))
            except (Hazard, Deadlock):
                caught += 1
    print(f"{caught} of {tried} missing tokens caught")
    assert caught > 0.8 * tried
