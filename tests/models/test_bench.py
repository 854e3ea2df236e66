"""The bench's judge and tables, on made-up rows; measuring is the bench's own work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console
from rich.table import Table

from moesaic.models.bench import accuracy, plans, processor, serving, tables, together
from moesaic.models.bench.cases import (
    ATTENTION,
    BOARD,
    FAMILIES,
    HEADLINES,
    MEMORIES,
    NARROW,
    ROUTINGS,
    SMALL,
    TINY,
)
from moesaic.models.bench.goals import LEAST_MHZ, MOST_CYCLES, MOST_RESOURCES, judge
from moesaic.models.bench.measure import Row
from moesaic.spec.arch import ArchConfig
from moesaic.spec.clocks import find_clock
from moesaic.spec.joint import joint_name
from moesaic.spec.parts import PARTS, family_of, known_part
from moesaic.spec.presets import PRESETS
from moesaic.spec.resource_model import target_resources

RESOURCES = {
    "zcu102": {
        "part": "xczu9eg",
        "totals": {"lut": 200_000, "dsp": 2_300, "bram36": 640.5},
        "share": {"lut": 0.73, "dsp": 0.91, "bram36": 0.70, "uram": None},
    }
}


def row(**changes: Any) -> Row:
    layer = {"kind": "moe", "cycles": 300_000.0, "array_cycles": 150_000.0}
    figures: Row = {
        "target": "zcu102", "model": "M3ViT-T, random weights", "routing": "balanced",
        "task": "seg", "latency": 60, "bandwidth": 0.9, "cycles": 300_000,
        "frame_cycles": [300_000, 301_000], "roofline_cycles": 280_000.0, "utilisation": 0.9333,
        "estimated_cycles": 301_200, "bit_exact": True, "macs": 800_000_000,
        "kinds": {"moe": 300_000}, "estimated_kinds": {"moe": 303_000},
        "layers": [{**layer, "matrix": {"busy": 180_000, "stall tile": 120_000}}],
        "experts_skipped": 3, "imbalance": [1.5, 2.5], "attention_words_per_head": 1032,
        "array_width": 64, "simulation_seconds": 20.0, "switch_cycles": 150,
        "clock_mhz": 301, "clock_source": "by make timing", "weight_read_bytes": 17_280_000,
    }  # fmt: skip
    return {**figures, **changes}


def unmet(headline: Row, resources: dict[str, dict[str, Any]] = RESOURCES) -> list[str]:
    return [goal.what for goal in judge([headline], [row()], resources) if not goal.met]


def test_good_rows_meet_every_goal() -> None:
    goals = judge([row()], [row()], RESOURCES)
    assert all(goal.met for goal in goals) and len(goals) == 12


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"bit_exact": False}, "bit-exact"),
        ({"frame_cycles": [300_000, 345_001]}, "cycles, worst frame"),
        ({"utilisation": 0.79}, "utilisation"),
        ({"switch_cycles": 201}, "another task's first weights"),
        ({"estimated_cycles": 301_600}, "error of a headline's frame"),
        ({"estimated_kinds": {"moe": 331_000}}, "error of a kind"),
        ({"clock_mhz": 299}, "zcu102: MHz, by make timing"),
        ({"clock_source": "assumed"}, "zcu102: MHz, by make timing"),
    ],
)
def test_every_goal_can_be_missed(changes: dict[str, Any], needle: str) -> None:
    (missed,) = unmet(row(**changes))
    assert needle in missed


def test_an_estimate_of_another_frame_can_be_too_far_off() -> None:
    (missed,) = [
        goal.what
        for goal in judge([row()], [row(estimated_cycles=284_000)], RESOURCES)
        if not goal.met
    ]
    assert "error of a frame" in missed


@pytest.mark.parametrize("kind", ["lut", "dsp", "bram36"])
def test_a_design_that_is_too_large_misses(kind: str) -> None:
    report = RESOURCES["zcu102"]
    larger = {**report, "totals": {**report["totals"], kind: 1_000_000}}
    assert unmet(row(), {"zcu102": larger}) == [f"zcu102: {kind}"]
    larger = {**report, "share": {**report["share"], kind: 1.01}}
    assert unmet(row(), {"zcu102": larger}) == ["zcu102: share of its part"]


@pytest.mark.parametrize("target", MOST_RESOURCES)
def test_limits_of_a_target_are_inside_its_part(target: str) -> None:
    capacity = PARTS[known_part(PRESETS[target].device) or ""].capacity
    limits = MOST_RESOURCES[target]
    assert all(0 < limit < capacity[kind] for kind, limit in limits.items())
    for kind in limits:
        totals = {**limits, kind: limits[kind] + 1}
        assert unmet(row(), {target: {"totals": totals}}) == [f"{target}: {kind}"]


@pytest.mark.parametrize("target", MOST_CYCLES)
def test_every_headline_is_judged(target: str) -> None:
    missed = unmet(row(target=target, frame_cycles=[900_001], utilisation=0.1))
    assert [what.partition(": ")[0] for what in missed] == [f"{target} seg"] * 2


def text(table: Table) -> str:
    console = Console(width=200, record=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_tables_show_the_rows() -> None:
    assert "+0.40%" in text(tables.frames([row()])) and "301,000" in text(tables.frames([row()]))
    assert "300,000 (+1.0%)" in text(tables.kinds([row()]))
    use = text(tables.array_use([row()]))
    assert "50.0%" in use and "10.0%" in use and "40.0%" in use
    assert "+10.0%" in text(tables.memories([row(), row(cycles=330_000)]))
    # One word holds a vector of 64: 1032 / 2 products.
    assert "516" in text(tables.attention([row()])) and "389" in text(tables.attention([row()]))
    assert "200,000 (73%)" in text(tables.resources(RESOURCES))
    compared = text(tables.comparison([row()], RESOURCES))
    assert "34.64" in compared and "1.00" in compared and "1.159" in compared
    assert "301 by make timing" in compared and "300 " in compared and "17.3" in compared
    assert "NO" in text(tables.goals(judge([row(bit_exact=False)], [], {})))


def test_cases_cover_what_is_promised() -> None:
    assert {case.target for case in (*HEADLINES, *SMALL)} == set(PRESETS)
    assert {name: family_of(arch.device) for name, arch in PRESETS.items()} == FAMILIES
    assert {case.model.routing for case in ROUTINGS} == {None, "one", "two"}
    assert {case.latency for case in MEMORIES} == {30, 60, 120, 240}
    assert any(case.bandwidth == 0.45 for case in MEMORIES)
    arch = PRESETS[BOARD.target]
    given = find_clock(arch).gigabytes_per_second(arch.line_bytes * BOARD.bandwidth)
    assert given == pytest.approx(0.75 * 19.2, rel=0.01)
    assert ArchConfig.from_dict(dict(NARROW)).width == 16 and ATTENTION.target == NARROW["name"]
    assert dataclasses.replace(TINY, routing=None).gates == "as drawn"


def test_files_of_the_contest_run_in_onnx_runtime(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    weight = onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    shapes = {"image": (1, 3, 4, 4), "y": (1, 3, 4, 2)}
    x, y = (onnx.helper.make_tensor_value_info(n, 1, shape) for n, shape in shapes.items())
    node = onnx.helper.make_node("MatMul", ["image", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", [x], [y], [weight])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "m")
    files = processor.quantise(tmp_path / "m", frames, tmp_path / "quantised")
    assert list(files) == list(processor.FILES)
    kinds = [{n.op_type for n in onnx.load(file).graph.node} for file in files.values()]
    assert kinds[0] == {"MatMul"} and "MatMulInteger" in kinds[1] and "QuantizeLinear" in kinds[2]
    assert all(processor.time_file(file, frames[:1], 2, 1, 0.0) > 0 for file in files.values())


def test_busy_processes_are_there_meanwhile() -> None:
    with processor.busy(2) as others:
        assert [other.poll() for other in others] == [None, None]
    assert all(other.returncode for other in others)


def test_table_of_the_contest_has_all_rows() -> None:
    row = {"model": "nano", "batch": 8, "threads": 2, "busy": 2, "cpu": 0.5}
    row |= dict.fromkeys(processor.FILES, 1.25)
    shown = Console(width=110, record=True)
    shown.print(processor.make_table([row, {**row, "busy": 0}]))
    text = shown.export_text()
    assert "2 busy processes" in text and "idle" in text
    assert text.count("500.00") == 2 and text.count("1,250.00") == 6


def planned(**changes: Any) -> list[Row]:
    found = {"what": "seg, 2 together", "target": "zcu102", "model": "M3ViT-T", "bandwidth": 0.7}
    return [{**found, "cycles": 280_000.0, "most_cycles": 290_000, **changes}]


def test_plans_can_miss_their_limits() -> None:
    assert all(goal.met for goal in plans.judge_plans(planned()))
    (missed,) = plans.judge_plans(planned(cycles=290_001.0))
    assert not missed.met and "seg, 2 together: estimated cycles, DRAM at 0.7" in missed.what
    shown = text(plans.make_table(planned()))
    assert "70%" in shown and "280,000" in shown and "290,000" in shown


def test_plans_are_of_one_two_and_four_frames_on_memories_of_the_part() -> None:
    assert [plan.frames for plan in plans.PLANS if plan.changes] == [1, 2, 4]
    for plan in plans.PLANS:
        arch = dataclasses.replace(PRESETS[plan.target], **dict(plan.changes))
        capacity = PARTS[known_part(arch.device) or ""].capacity
        assert target_resources(arch, "xcup")["bram36"] <= capacity["bram36"], plan
        assert plan.most_cycles


def joined(**changes: Any) -> list[Row]:
    found = {"target": "zcu102", "model": "M3ViT-T", "weights": "8 bits", "program": together.BOTH}
    found |= {"bandwidth": 0.9, "bit_exact": True, "cycles": 450_000, "most_cycles": 510_000}
    return [{**found, **changes}]


def test_programs_of_several_tasks_can_miss_their_limits() -> None:
    assert together.judge_forms([]) == []
    assert all(goal.met for goal in together.judge_forms(joined()))
    (slow,) = (goal for goal in together.judge_forms(joined(cycles=510_001)) if not goal.met)
    assert "zcu102 seg+depth, 8 bits: cycles, DRAM at 0.9" in slow.what
    (wrong,) = (goal for goal in together.judge_forms(joined(bit_exact=False)) if not goal.met)
    assert "not bit-exact, of 1" in wrong.what
    shown = text(together.make_table([*joined(), *joined(program="seg", most_cycles=None)]))
    assert "510,000" in shown and "90%" in shown and "yes" in shown


class ToldBench:
    """Compiles nothing, and its simulations say what they are told."""

    console = Console(quiet=True)

    def compile(self, *given: Any) -> Path:
        return Path("bundle")


def test_every_form_is_judged_by_what_verify_says(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = {"bit_exact": True, "cycles": [440_000, 9_999_999]}
    programs = ["seg", "depth", joint_name(together.TASKS, 1)]
    said = {"tasks": dict.fromkeys(programs, verdict)}
    monkeypatch.setattr(together, "run_step", lambda *given, **more: json.dumps(said))
    for form in together.FORMS:
        rows = together.run_form(ToldBench(), form)  # type: ignore[arg-type]
        missed = [goal for goal in together.judge_forms(rows) if not goal.met]
        assert len(missed) == sum(len(most) for most in form.most_cycles.values())
    del said["tasks"][together.BOTH]
    with pytest.raises(SystemExit, match=r"no program seg\+depth"):
        together.run_form(ToldBench(), together.FORMS[0])  # type: ignore[arg-type]


def test_forms_are_of_targets_that_take_them() -> None:
    for form in together.FORMS:
        assert "--experts" not in form.options or PRESETS[form.target].four_bit_weights
        assert together.BOTH in form.most_cycles and form.shares == [0.9, 0.7]


def test_clocks_are_asked_of_all_that_have_one() -> None:
    assert set(LEAST_MHZ) == {
        name for name, arch in PRESETS.items() if family_of(arch.device) == "xcup"
    }


def served(batch: int, rate: float, clients: int = 8) -> Row:
    row: Row = {"size": "nano", "models": ["seg"], "clients": clients, "batch": batch}
    return row | {"images_per_second": rate, "p50": 0.02, "p99": 0.03, "frames_per_call": 4.5}


def test_joined_requests_must_be_served_faster() -> None:
    rows = [served(1, 240.0), served(8, 370.0), served(1, 200.0, 1), served(8, 100.0, 1)]
    (goal,) = serving.judge(rows)
    assert goal.met and "nano, 8 clients of seg" in goal.what
    assert not serving.judge([served(1, 240.0), served(8, 240.0)])[0].met
    shown = text(serving.make_table(rows))
    assert "up to 8" in shown and "370.0" in shown and "4.50" in shown


def contested(model: str, cpu: float, **changes: Any) -> Row:
    times = {"cpu": cpu, "float": 1.0, "dynamic int8": 1.0, "static int8": 1.2}
    return {"model": model, "batch": 1, "threads": 1, "busy": 0, **times, **changes}


def test_cpu_is_held_to_what_onnx_runtime_takes() -> None:
    rows = [contested("nano", 1.5), contested("tiny", 1.0), contested("tiny", 1.0, batch=8)]
    assert [goal.met for goal in processor.judge(rows)] == [True] * 3
    slower = [contested("nano", 1.6), contested("tiny", 1.1), contested("tiny", 1.1, batch=8)]
    assert [goal.met for goal in processor.judge(slower)] == [False] * 3
    others = [contested("tiny", 9.0, busy=2), contested("tiny", 9.0, threads=2)]
    assert processor.judge([*others, contested("nano", 9.0, batch=8)]) == []


def measured(weights: str, seg: float, depth: float, kept: float = 31.0) -> Row:
    both = {"seg": kept, "depth": 46.0}
    row: Row = {"model": "nano", "weights": weights, "merit": {"seg": seg, "depth": depth}}
    rest = {"kept_db": both, "sqnr_db": both, "bytes": {"seg": 1_580_000, "depth": 1_430_000}}
    return row if weights == "float" else {**row, **rest}


def test_accuracy_of_four_bits_is_held_to_limits() -> None:
    exact = measured("float", 0.8876, 0.0514)
    rows = [exact, measured("experts in 4", 0.8867, 0.0515), measured(accuracy.AUTO, 0.88, 0.053)]
    goals = accuracy.judge(rows)
    assert all(goal.met for goal in goals) and len(goals) == 3
    worse = [exact, measured("experts in 4", 0.88, 0.0535), measured(accuracy.AUTO, 0.8, 0.1, 29.9)]
    assert not any(goal.met for goal in accuracy.judge(worse))
    shown = text(accuracy.make_table(rows))
    assert "1.58, 1.43" in shown and "31.0, 46.0" in shown and "0.8867" in shown


def test_accuracy_of_unknown_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--models must be among nano, tiny, not huge"):
        accuracy.main(["--models", "huge", "--out", str(tmp_path)])
