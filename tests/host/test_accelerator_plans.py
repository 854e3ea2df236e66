"""Which programs an accelerator runs: those of fewest cycles, and nothing that nobody asked for."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from moesaic.host import Session
from moesaic.host.accelerator import Accelerator
from moesaic.host.driver import Driver, FrameResult
from moesaic.spec.bundle import Bundle
from moesaic.spec.execute import Executor
from moesaic.spec.hostside import quantise_input
from moesaic.spec.joint import JointEntry, joint_name
from tests.host.joint_devices import three_tasks
from tests.host.known_devices import know_devices

JOINT = {
    joint_name(tasks, frames): JointEntry(list(tasks), frames, 1, 1, [])
    for tasks, frames in ((("seg", "depth"), 1), (("seg",), 2), (("seg", "depth"), 4))
}
SINGLE = {"seg": 100, "depth": 100, "edge": 100}
FASTER = {**SINGLE, "seg+depth": 150, "seg*2": 150, "seg+depth*4": 500}
SLOWER = {**SINGLE, "seg+depth": 201, "seg*2": 201, "seg+depth*4": 801}


def reported(bundle: Bundle, cycles: dict[str, int]) -> Bundle:
    """With joint programs, and a report of so many cycles."""
    tasks = {name: {"cycles": cycles[name]} for name in bundle.tasks}
    joint = {name: {"cycles": cycles[name]} for name in JOINT}
    programs = {**bundle.programs, **dict.fromkeys(JOINT, b"")}
    report = {"tasks": tasks, "joint": joint}
    return dataclasses.replace(bundle, programs=programs, joint=JOINT, report=report)


class Recorded(Accelerator):
    """Computes what a program gives from the graphs, and keeps the programs' names."""

    ran: list[str] = []

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(cast(Driver, SimpleNamespace(bundle=bundle, run=self._run)))
        self._bundle = bundle

    def _run(self, program: str, patches: np.ndarray) -> FrameResult:
        self.ran.append(program)
        bundle = self._bundle
        entry = bundle.joint.get(program, JointEntry([program], 1, 1, 1, []))
        frames = patches.reshape(entry.frames, -1, patches.shape[-1])
        codes = [Executor(bundle.graphs[task]).run(frames).ravel() for task in entry.tasks]
        return FrameResult(np.concatenate(codes), {})

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return three_tasks()


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorded.ran = []
    know_devices(monkeypatch, recorded=Recorded)


@pytest.mark.parametrize(
    ("cycles", "tasks", "frames", "programs"),
    [
        (FASTER, ["seg", "depth"], 1, ["seg+depth"]),
        (FASTER, ["seg", "depth"], 5, ["seg+depth*4", "seg+depth"]),
        (FASTER, ["seg"], 3, ["seg*2", "seg"]),
        (FASTER, ["depth"], 4, ["depth"] * 4),
        (SLOWER, ["seg", "depth"], 2, ["seg", "seg", "depth", "depth"]),
    ],
)
def test_programs_of_fewest_cycles_are_run(
    bundle: Bundle, cycles: dict[str, int], tasks: list[str], frames: int, programs: list[str]
) -> None:
    graphs = bundle.graphs
    shape = (frames, *graphs["seg"].input_shape[1:])
    x = np.random.default_rng(frames).uniform(-1, 1, shape).astype(np.float32)
    codes = quantise_input(graphs["seg"], x)
    results = Recorded(reported(bundle, cycles)).run_tasks(tasks, codes)
    assert Recorded.ran == programs
    for task in tasks:
        assert np.array_equal(results[task].codes, Executor(graphs[task]).run(codes))


def test_batches_are_no_larger_than_a_program_of_their_tasks_that_is_faster(bundle: Bundle) -> None:
    device = Recorded(reported(bundle, FASTER))
    tasks: list[list[str]] = [["seg"], ["depth"], ["seg", "depth"], ["depth", "edge"]]
    assert [device.batch_frames(some) for some in tasks] == [2, 1, 4, 1]
    device = Recorded(reported(bundle, SLOWER))
    assert [device.batch_frames(some) for some in tasks] == [1, 1, 1, 1]
    device = Recorded(dataclasses.replace(reported(bundle, SLOWER), report={}))
    assert [device.batch_frames(some) for some in tasks] == [2, 1, 4, 1]


def test_requests_for_different_tasks_compute_nothing_else(bundle: Bundle) -> None:
    shape = (1, *bundle.graphs["seg"].input_shape[1:])
    images: list[Any] = [
        {"x": np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)}
        for seed in range(2)
    ]
    sizes: dict[str, Any] = {"batch_frames": 8, "batch_wait_seconds": 0.05}
    with Session(reported(bundle, FASTER), "recorded", **sizes) as session:
        asked = [session.submit(images[0], "seg"), session.submit(images[1], "depth")]
        answers = [future.result() for future in asked]
        assert Recorded.ran == ["seg", "depth"]
        both = session.submit_many(images[0], ["seg", "depth"]).result()
        assert Recorded.ran[2:] == ["seg+depth"]
    assert np.array_equal(both["seg"]["y"], answers[0]["y"])
