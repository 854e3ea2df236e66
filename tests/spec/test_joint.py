"""Programs of several tasks or frames: names, plans of runs, and what a bundle holds of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from moesaic.spec import image
from moesaic.spec.errors import UserError
from moesaic.spec.hostside import same_codes
from moesaic.spec.joint import (
    JointEntry,
    check_joint,
    check_parts,
    joint_frames,
    joint_name,
    output_shapes,
    plan_runs,
    read_joint,
    worth_running,
)
from moesaic.spec.presets import PRESETS
from moesaic.spec.schema import SchemaError
from tests.compiler.random_intgraph import Shape, random_intgraph

from .bundle_pieces import Pieces, pieces, refusal, reseal_image

TASKS = ("seg", "depth", "edges")


def entries(*programs: str) -> dict[str, JointEntry]:
    found = {}
    for text in programs:
        tasks, frames = read_joint(text, TASKS)
        found[joint_name(tasks, frames)] = JointEntry(list(tasks), frames, 1, 1, [])
    return found


@pytest.mark.parametrize(
    ("text", "tasks", "frames", "name"),
    [
        ("seg,depth", ("seg", "depth"), 1, "seg+depth"),
        ("seg*2", ("seg",), 2, "seg*2"),
        (" seg + depth*4 ", ("seg", "depth"), 4, "seg+depth*4"),
        ("seg,depth,edges*64", TASKS, 64, "seg+depth+edges*64"),
    ],
)
def test_names_are_read_back(text: str, tasks: tuple[str, ...], frames: int, name: str) -> None:
    assert read_joint(text, TASKS) == (tasks, frames) == read_joint(name, TASKS)
    assert joint_name(tasks, frames) == name and joint_frames(name) == frames


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("seg", "several tasks, up to 64 frames of one, or both"),
        ("seg*1", "several tasks"),
        ("seg*65", "several tasks"),
        ("seg*", "several tasks"),
        ("seg*-2", "several tasks"),
        ("seg*2*2", "several tasks"),
        ("", "several tasks"),
        ("seg,seg", "several tasks"),
        ("seg,night", "no task 'night' to compute together: tasks are depth, edges, seg"),
        ("seg,", "no task ''"),
    ],
)
def test_other_texts_are_refused(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        read_joint(text, TASKS)
    with pytest.raises(UserError, match="more than 31 bytes; give the tasks shorter names"):
        read_joint(f"{'a' * 16},{'b' * 16}", ("a" * 16, "b" * 16))


@pytest.mark.parametrize("name", ["depth+seg", "seg*3", "seg", "seg+night", "seg,depth"])
def test_entries_under_other_names_are_refused(name: str) -> None:
    (entry,) = entries("seg,depth").values()
    check_joint({"seg+depth": entry}, TASKS)
    with pytest.raises(SchemaError, match="joint"):
        check_joint({name: entry}, TASKS)


def test_the_largest_sets_and_the_most_frames_come_first() -> None:
    joint = entries("seg,depth", "seg,depth*2", "seg*2", "seg*4", "depth,edges*3")
    assert [run.name for run in plan_runs(joint, ["seg"], 7)] == ["seg*4", "seg*2", "seg"]
    assert [run.name for run in plan_runs(joint, ["depth"], 2)] == ["depth", "depth"]
    names = [run.name for run in plan_runs(joint, ["seg", "depth"], 5)]
    assert names == ["seg+depth*2", "seg+depth*2", "seg+depth"]
    everything = [run.name for run in plan_runs(joint, TASKS, 3)]
    assert sorted(everything) == ["depth+edges*3", "seg", "seg*2"]


def test_the_fewest_cycles_are_taken() -> None:
    joint = entries("seg,depth", "seg*2", "depth*2", "seg,depth*2")
    single = {"seg": 100, "depth": 100}
    slow = {**single, "seg+depth": 150, "seg*2": 140, "depth*2": 140, "seg+depth*2": 290}

    def plan(cycles: dict[str, int], tasks: list[str], frames: int) -> list[str]:
        return sorted(run.name for run in plan_runs(joint, tasks, frames, cycles))

    # Two frames of each beat both tasks of an image, twice.
    assert plan(slow, ["seg", "depth"], 2) == ["depth*2", "seg*2"]
    assert plan(slow, ["seg", "depth"], 3) == ["depth*2", "seg*2", "seg+depth"]
    # A larger program that takes longer than what is in it is left alone, and so is one of more
    # tasks than were asked for, however fast it is.
    fast = {**slow, "seg+depth": 210, "seg*2": 200, "depth*2": 200, "seg+depth*2": 1}
    assert plan(fast, ["seg", "depth"], 1) == ["depth", "seg"]
    assert plan(fast, ["seg"], 2) == ["seg", "seg"]
    assert list(worth_running(joint, fast)) == ["seg+depth*2"]
    assert list(worth_running(joint, slow)) == ["seg+depth", "seg*2", "depth*2"]
    # Where one is not known, fewer runs are taken to be faster.
    del fast["depth"]
    assert plan(fast, ["seg", "depth"], 1) == ["seg+depth"]
    assert list(worth_running(joint, {})) == list(joint)


def test_many_tasks_are_planned_at_once() -> None:
    tasks = [f"t{number}" for number in range(16)]
    cycles = dict.fromkeys(tasks, 5)
    assert [run.name for run in plan_runs({}, tasks, 2, cycles)] == [t for t in tasks for _ in "ab"]


def test_every_frame_of_every_task_is_computed_once() -> None:
    rng = random.Random(1)
    possible = [
        f"{','.join(chosen)}*{frames}"
        for size in (1, 2, 3)
        for chosen in ([*TASKS[:size]], [*TASKS[-size:]])
        for frames in (1, 2, 3, 5)
        if size > 1 or frames > 1
    ]
    for _ in range(300):
        joint = entries(*rng.sample(sorted(set(possible)), rng.randrange(5)))
        tasks, frames = rng.sample(TASKS, rng.randrange(1, 4)), rng.randrange(9)
        done, cycles = [], {name: rng.randrange(1, 9) for name in (*joint, *TASKS)}
        if rng.random() < 0.2:
            cycles.clear()
        runs = plan_runs(joint, tasks, frames, cycles)
        if cycles:
            alone = frames * sum(cycles[task] for task in tasks)
            assert sum(cycles[run.name] for run in runs) <= alone
        for run in runs:
            assert run.name in joint or run.name in tasks
            computed = range(run.first, run.first + run.frames)
            done += [(task, frame) for task in run.tasks for frame in computed]
        assert sorted(done) == sorted((task, frame) for task in tasks for frame in range(frames))


def change(name: str, **fields: object) -> Callable[[Pieces], object]:
    return lambda p: p.manifest["joint"][name].update(fields)


def report(joint: object) -> Callable[[Pieces], object]:
    return lambda p: p.manifest["report"].update(joint=joint)


CHANGES: dict[str, tuple[Callable[[Pieces], object], str]] = {
    "another name": (
        lambda p: p.manifest.update(joint={"depth*4": p.manifest["joint"]["depth*2"]}),
        "joint.depth*4 computes something else than its name says",
    ),
    "other frames": (change("depth*2", frames=3), "computes something else"),
    "too many": (change("depth*2", frames=65), "frames must be 1 to 64"),
    "another task": (change("depth*2", tasks=["seg"]), "computes something else"),
    "no task": (
        lambda p: p.manifest.update(joint={"night*2": p.manifest["joint"]["depth*2"]}),
        "joint has a program that is none",
    ),
    "tasks of other inputs": (
        lambda p: p.manifest.update(
            joint={"seg+depth": {**p.manifest["joint"]["depth*2"], "tasks": TASKS[:2], "frames": 1}}
        ),
        "device.bin holds other programs than the manifest names",
    ),
    "not in the image": (lambda p: p.manifest.update(joint={}), "holds other programs"),
    "no joint": (lambda p: p.manifest.pop("joint"), "must have the fields"),
    "words": (change("depth*2", activation_words=1 << 20), "other sizes or constants"),
    "labels": (change("depth*2", labels=[""] * 257), "0 to 256 entries"),
    "more": (change("depth*2", path="x"), "unknown field 'path'"),
    "no reports": (report([]), "report.joint must be an object"),
    "no report": (report({"depth*2": 3}), "report.joint.depth*2 must be"),
    "no cycles": (report({"depth*2": {"cycles": "x"}}), "report.joint.depth*2.cycles must be"),
    "report of another": (report({"seg*2": {"cycles": 9}}), "report.joint.seg*2 is no program"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_bundles_that_break_a_rule_are_refused(name: str, tmp_path: Path) -> None:
    apply, message = CHANGES[name]
    made = pieces(1)
    assert list(made.manifest["joint"]) == ["depth*2"]
    apply(made)
    made.write(tmp_path)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize("field", ["input_rows", "inputs", "scratch_bytes"])
def test_programs_of_other_sizes_are_refused(field: str, tmp_path: Path) -> None:
    made = pieces(1)
    tables = image.HEADER.itemsize + (PRESETS["nano"].weight_ports + 6) * image.SECTION.itemsize
    entry = tables + 2 * image.TASK.itemsize + image.TASK.fields[field][1]  # type: ignore[index]
    assert made.image[entry - image.TASK.fields[field][1] :].startswith(b"depth*2")  # type: ignore[index]
    made.image[entry] += 1
    reseal_image(made.image)
    made.write(tmp_path)
    assert "joint.depth*2 has other sizes or constants than its tasks" in refusal(tmp_path)


def test_tasks_together_must_have_the_same_codes() -> None:
    one = random_intgraph(Shape(), seed=1)
    assert same_codes(one, replace(one, heads=one.heads[::-1]))
    for other in (
        replace(one, input_scale=0.5),
        replace(one, input_zero=3),
        replace(one, input_shape=(1, *one.input_shape)),
        replace(one, gather=one.gather[::-1]),
        random_intgraph(Shape(from_host=True), seed=1),
    ):
        assert not same_codes(one, other)
    entry = JointEntry(["a", "b"], 1, 1, 1, [])
    graphs = {"a": one, "b": replace(one, input_scale=0.5)}
    part = image.ImageTask.of(PRESETS["nano"], one, b"", b"")
    with pytest.raises(SchemaError, match="has tasks with different inputs"):
        check_parts(PRESETS["nano"], graphs, {"a+b": entry}, {"a": part, "a+b": part})


def test_outputs_of_a_program_are_bounded() -> None:
    one = random_intgraph(Shape(), seed=1)
    assert len(output_shapes([one], 32)) == 32
    with pytest.raises(UserError, match="has 33 outputs, a program has 32 at most: take fewer"):
        output_shapes([one], 33)
    with pytest.raises(UserError, match="has 33 outputs, a program has 32 at most: take fewer tas"):
        output_shapes([one] * 33, 1)
