"""The search for a target: its space, what it refuses, and that trials of processes add up."""

from __future__ import annotations

import multiprocessing
import random
from dataclasses import replace
from pathlib import Path

import pytest

from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.models import estimate_graphs
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.explore.goal import Goal, best, pareto, slowest
from moesaic.compiler.explore.judge import Judge, Limits, Verdict
from moesaic.compiler.explore.search import search
from moesaic.compiler.explore.space import Needs, Space
from moesaic.compiler.explore.study import open_study, verdicts
from moesaic.spec.arch import MAX_EXPERTS, MAX_TOKENS, ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.parts import PARTS, Part
from moesaic.spec.presets import PRESETS

from .random_intgraph import Shape, random_intgraph

SHAPE = Shape(moe=(False, True), experts=4, top_k=2, tokens=20, patches=20, head_rows=20)
NAMES = ("explored", "xck26")
PART = PARTS["xck26"]


@pytest.fixture(scope="module")
def graph() -> IntGraph:
    return random_intgraph(SHAPE, seed=1, values=False)


def judge_of(graph: IntGraph, part: Part = PART, **limits: float) -> Judge:
    return Judge({"task": graph}, part, Limits(**limits), Memory())


def space_of(graph: IntGraph, part: Part = PART) -> Space:
    return Space(Needs.of([graph]), part)


def run(graph: IntGraph, where: Path, trials: int, goal: Goal) -> list[Verdict]:
    study = open_study(where, "study", seed=3)
    space = space_of(graph)
    first = PRESETS.values()
    assert search(study, space, judge_of(graph), goal, NAMES, trials, None, first) == trials
    return verdicts(study.trials)


NEEDS = [
    Needs(20, 40, 4),
    Needs(129, 192, 16),
    Needs(257, 384, 1),
    Needs(1000, 1024, 100),
    Needs(5000, 4000, 1000),
]


@pytest.mark.parametrize("part", sorted(PARTS))
def test_every_point_is_a_target(part: str) -> None:
    rng = random.Random(1)
    for needs in NEEDS:
        space = Space(needs, PARTS[part])
        for _ in range(50):
            point = {name: rng.randint(*ends) for name, ends in space.ranges.items()}
            arch = space.target(point, "x", part)
            assert arch.max_tokens >= min(needs.tokens, MAX_TOKENS)
            assert arch.max_experts >= min(needs.experts, MAX_EXPERTS)
            assert arch.weight_ports <= PARTS[part].ports
            assert arch.weight_port_bytes == PARTS[part].port_bytes
            assert arch.max_burst == PARTS[part].max_burst
            assert arch.secure == PARTS[part].secure and not arch.coherent
            assert PARTS[part].family == "xcup" or not arch.packed
            assert PARTS[part].capacity.get("uram") or not arch.ultra_ring | arch.ultra_activations
            assert space.target(space.point(arch), "x", part) == arch


FLAGS = ("four_bit_weights", "chunk_pairs")


def test_presets_are_points_of_the_space() -> None:
    """With the tokens, channels and experts of M3ViT-T, which `zcu102` is made for."""
    space = Space(Needs(129, 192, 16), PARTS["xczu9eg"])
    for name in ("zcu102", "zcu102-lite"):
        preset = PRESETS[name]
        found = space.target(space.point(preset), name, preset.device)
        # `zcu102` has room for longer rows than that model's, for two frames, and features that
        # are not tried.
        kept = ("accumulator_rows", "residual_bytes", "max_tokens", *FLAGS)
        assert found == replace(preset, **{field: getattr(found, field) for field in kept})
        assert found.accumulator_rows == preset.accumulator_rows


def test_ultra_ram_is_tried_where_there_is_some() -> None:
    needs = Needs(129, 192, 16)
    for name, ranges in ((part, Space(needs, PARTS[part]).ranges) for part in PARTS):
        assert ("ultra" in ranges) == bool(PARTS[name].capacity.get("uram"))
    space = Space(needs, PARTS["xck26"])
    point = space.point(PRESETS["kv260"])
    tried = [space.target(point | {"ultra": value}, *NAMES) for value in range(4)]
    assert [(arch.ultra_ring, arch.ultra_activations) for arch in tried] == [
        (False, False), (True, False), (False, True), (True, True),
    ]  # fmt: skip
    assert space.ranges["ultra"] == (0, 3)


def test_a_target_with_too_much_ultra_ram_is_refused(graph: IntGraph) -> None:
    large = replace(
        PRESETS["kv260"], ring_read_bytes=512, ring_bytes=1 << 21, ultra_ring=True,
        ultra_activations=True, activation_bytes=1 << 16,
    )  # fmt: skip
    verdict = judge_of(graph)(large)
    assert verdict.worst == "uram" and verdict.excess > 1 and not verdict.cycles
    assert judge_of(graph)(replace(large, ring_bytes=1 << 18, ring_read_bytes=128)).excess <= 1


def test_a_target_beyond_the_part_is_not_estimated(graph: IntGraph) -> None:
    verdict = judge_of(graph)(PRESETS["zcu102"])
    assert verdict.excess > 1 and not verdict.cycles and not verdict.refused
    assert verdict.worst == "bram36"
    assert verdict.share["bram36"] == 684 / 144


def test_a_target_that_the_model_does_not_fit_says_why(graph: IntGraph) -> None:
    small = replace(PRESETS["nano"], residual_bytes=32)
    verdict = judge_of(graph)(small)
    assert verdict.excess < 1 and not verdict.cycles
    assert verdict.refused.startswith("its residual stream needs")
    assert "target" not in verdict.refused


def test_cycles_are_no_less_than_those_that_compile_finds(graph: IntGraph) -> None:
    arch = PRESETS["nano"]
    verdict = judge_of(graph)(arch)
    scheduled = estimate_graphs({"task": graph}, arch, image=ShapeImage(arch))["task"].cycles
    assert 0.8 * verdict.cycles["task"] < scheduled <= verdict.cycles["task"]


@pytest.mark.parametrize("objective", ["latency", "area"])
def test_the_search_is_no_worse_than_the_presets(
    graph: IntGraph, tmp_path: Path, objective: str
) -> None:
    goal = Goal(objective)
    found = run(graph, tmp_path / "a.journal", 16, goal)
    judge, space = judge_of(graph), space_of(graph)
    presets = [judge(space.target(space.point(arch), *NAMES)) for arch in PRESETS.values()]
    fitting = [verdict for verdict in presets if verdict.cycles]
    chosen = best(found, goal)
    assert fitting and chosen is not None
    assert goal.value(chosen) <= min(map(goal.value, fitting))
    assert all(chosen.share[kind] <= limit for kind, limit in judge.limits.items())
    assert run(graph, tmp_path / "b.journal", 16, goal) == found  # the seed settles it


def test_the_pareto_set_has_all_that_nothing_beats(graph: IntGraph, tmp_path: Path) -> None:
    found = [v for v in run(graph, tmp_path / "journal", 16, Goal("latency")) if v.cycles]
    front = pareto(found)

    def beats(one: Verdict, other: Verdict) -> bool:
        mine, theirs = (one.area, slowest(one)), (other.area, slowest(other))
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))

    assert not any(beats(a, b) for a in found for b in front)
    assert all(v in front or any(beats(f, v) for f in front) or v.area in [f.area for f in front]
               for v in found)  # fmt: skip
    areas = [verdict.area for verdict in front]
    assert len(found) > len(front) and areas == sorted(areas, reverse=True)


def test_the_search_finds_the_memory_that_a_model_needs(tmp_path: Path) -> None:
    """The part refuses the first trials, or they have too little room for activations."""
    shape = Shape(
        moe=(False, True), experts=4, top_k=2, tokens=129, patches=129, head_rows=129,
        channels=192, heads=3, head_dim=64, value_dim=64, hidden=384, expert_hidden=384,
        wide=0.0, pairs=0.0,
    )  # fmt: skip
    graph = random_intgraph(shape, seed=1, values=False)
    part = PARTS["lfe5u-85"]
    study = open_study(tmp_path / "journal", "study", seed=1)
    goal, judge = Goal("latency"), judge_of(graph, part)
    search(study, space_of(graph, part), judge, goal, NAMES, 40, None)
    found = verdicts(study.trials)
    chosen = best(found, goal)
    assert chosen is not None and chosen.excess <= 1
    refused = [verdict for verdict in found if not verdict.cycles]
    assert any(verdict.refused for verdict in refused)
    assert any(verdict.excess > 1 for verdict in refused)


def test_a_study_goes_on(graph: IntGraph, tmp_path: Path) -> None:
    first = run(graph, tmp_path / "journal", 6, Goal("latency"))
    both = run(graph, tmp_path / "journal", 6, Goal("latency"))
    assert both[: len(first)] == first and len(both) > len(first)


def test_a_goal_that_no_target_meets_has_no_best_one(graph: IntGraph, tmp_path: Path) -> None:
    goal = Goal("area", most_cycles=1)
    found = run(graph, tmp_path / "journal", 6, goal)
    assert any(verdict.cycles for verdict in found) and best(found, goal) is None
    states = {trial.state.name for trial in open_study(tmp_path / "journal", "study", 1).trials}
    assert states == {"PRUNED"}


def _work(graph: IntGraph, where: str, trials: int) -> None:
    study = open_study(where, "study", 1, shared=True)
    search(study, space_of(graph), judge_of(graph), Goal("latency"), NAMES, trials, None)


@pytest.mark.parametrize("storage", ["{}/study.journal", "sqlite:///{}/study.db"])
def test_trials_of_two_processes_add_up(graph: IntGraph, tmp_path: Path, storage: str) -> None:
    where = storage.format(tmp_path)
    open_study(where, "study", None)  # a database makes its tables once
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(graph, where, 5)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    trials = open_study(where, "study", None).trials
    assert len(trials) == 10 and all(trial.state.is_finished() for trial in trials)
    assert len({tuple(trial.params.items()) for trial in trials}) > 5


@pytest.mark.parametrize("where", ["nosuch://host/x", "sqlite:////nowhere/at/all.db", "{}/folder"])
def test_storage_that_cannot_be_used_is_a_sentence(tmp_path: Path, where: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="^storage .* cannot be used: .*; name a journal file"):
        open_study(where.format(tmp_path), "study", None)


def test_a_file_that_is_no_journal_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x07\x12\x00 no journal\n\x00\x01\n")
    with pytest.raises(UserError, match="cannot be used"):
        open_study(path, "study", None)


def test_a_verdict_survives_json(graph: IntGraph) -> None:
    verdict = judge_of(graph)(PRESETS["nano"])
    assert Verdict.from_dict(verdict.to_dict()) == verdict
    assert isinstance(verdict.arch, ArchConfig)
