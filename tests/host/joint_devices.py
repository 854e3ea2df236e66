"""Devices for work that goes to one in one go, and a bundle of tasks that share their input."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from moesaic.host.pool import DeviceResult
from moesaic.spec.bundle import Bundle
from moesaic.spec.execute import Executor
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.e2e.bundles import make_bundle

WAIT_SECONDS = 30.0


class Plain:
    """Runs the integer graph, or does what ``plan`` says: one entry per call.

    An exception is raised, an event is waited for, and a function changes the result. ``calls``
    are tasks and numbers of frames. Counters are the frames' places in their call.
    """

    name = "plain"
    plan: list[Any] = []
    calls: list[tuple[str, int]] = []
    began = threading.Semaphore(0)

    def __init__(self, bundle: Bundle) -> None:
        self._executors = {name: Executor(graph) for name, graph in bundle.graphs.items()}

    def run(self, task: str, patches: np.ndarray) -> DeviceResult:
        step = self._begin(task, len(patches))
        result = self._run(task, patches)
        return step(result) if callable(step) else result

    def _begin(self, call: str, frames: int) -> Any:
        Plain.calls.append((call, frames))
        step = Plain.plan.pop(0) if Plain.plan else None
        Plain.began.release()
        if isinstance(step, Exception):
            raise step
        if isinstance(step, threading.Event):
            assert step.wait(WAIT_SECONDS)
        return step

    def _run(self, task: str, patches: np.ndarray) -> DeviceResult:
        counters = [{"PLACE": place} for place in range(len(patches))]
        return DeviceResult(self._executors[task].run(patches), counters)

    def close(self) -> None:
        """Nothing to give back."""


class Joint(Plain):
    """Has a call of its own for several tasks."""

    name = "joint"

    def run_tasks(self, tasks: Sequence[str], patches: np.ndarray) -> dict[str, DeviceResult]:
        assert len(tasks) > 1, "one task is for run()"
        step = self._begin("+".join(tasks), len(patches))
        results = {task: self._run(task, patches) for task in reversed(tasks)}
        return step(results) if callable(step) else results


class OneByOne(Plain):
    """Has no use for several frames in a call."""

    name = "one"
    batch_frames = 1


KINDS = {"plain": Plain, "joint": Joint, "one": OneByOne}


def forget() -> None:
    """Forget earlier uses."""
    Plain.plan, Plain.calls, Plain.began = [], [], threading.Semaphore(0)


def three_tasks() -> Bundle:
    """``seg`` and ``depth`` take the same codes; ``edge`` takes others for the same input."""
    graphs = {
        name: random_intgraph(Shape(), seed=seed, task=name)
        for seed, name in enumerate(("seg", "depth", "edge"))
    }
    like = graphs["seg"]
    for name, zero in (("depth", 0), ("edge", 3)):
        graphs[name] = dataclasses.replace(
            graphs[name], input_scale=like.input_scale, input_zero=zero, gather=like.gather
        )
    return make_bundle(graphs, PRESETS["nano"])
