"""Several tasks and several requests in one go: the bits are those of one by one, on any device."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from moesaic.host import DeviceError, Outputs, Session
from moesaic.host.failures import TransportError
from moesaic.host.pool import DeviceResult
from moesaic.host.sides import HostSides
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.hostside import quantise_input
from tests.host.joint_devices import KINDS, Plain, forget, three_tasks
from tests.host.known_devices import know_devices

ALL = ["edge", "seg", "depth"]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return three_tasks()


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    know_devices(monkeypatch, **KINDS)


@pytest.fixture(scope="module")
def x(bundle: Bundle) -> np.ndarray:
    shape = (3, *bundle.graphs["seg"].input_shape[1:])
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(scope="module")
def one_by_one(bundle: Bundle, x: np.ndarray) -> dict[str, np.ndarray]:
    with Session(bundle, "cpu") as session:
        return {
            task: np.concatenate([session.run({"x": frame[None]}, task)["y"] for frame in x])
            for task in ALL
        }


def same(answers: dict[str, Outputs], wanted: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(answers[task]["y"], wanted[task]) for task in answers)


@pytest.mark.parametrize("kind", ["cpu", "plain", "joint"])
def test_tasks_together_give_the_bits_of_one_by_one(
    kind: str, bundle: Bundle, x: np.ndarray, one_by_one: dict[str, np.ndarray]
) -> None:
    with Session(bundle, kind) as session:
        answers = session.run_many({"x": x}, ALL)
        assert list(answers) == ALL and same(answers, one_by_one)
        assert len({id(answer.call) for answer in answers.values()}) == 1
        assert len({answer["y"].tobytes() for answer in answers.values()}) == 3, "no tasks differ"
        assert list(session.run_many({"x": x})) == list(bundle.tasks)
        assert same(session.submit_many({"x": x}, ALL).result(), one_by_one)
    # Tasks of the same codes are one call, where there is one for it.
    calls = {
        "plain": [("edge", 3), ("seg", 3), ("depth", 3)],
        "joint": [("edge", 3), ("seg+depth", 3)],
    }
    assert Plain.calls[: len(calls.get(kind, []))] == calls.get(kind, [])


def test_one_task_is_a_call_that_every_device_has(bundle: Bundle, x: np.ndarray) -> None:
    with Session(bundle, "joint") as session:
        session.run_many({"x": x}, ["seg"])
    assert Plain.calls == [("seg", 3)]


def _short(results: dict[str, DeviceResult]) -> dict[str, DeviceResult]:
    return {"seg": results["seg"]}


@pytest.mark.parametrize(
    ("kind", "plan", "reason"),
    [
        ("joint", [DeviceError("watchdog")], "watchdog"),
        ("joint", [None, OSError("vanished")], "vanished"),  # the second of the groups
        ("joint", [None, _short], "joint gave no answer for task depth"),
        ("plain", [TransportError("bus")], "bus"),
        ("plain", [None, None, TransportError("bus")], "bus"),
    ],
)
def test_next_device_repeats_all_of_it(
    kind: str,
    plan: list[Any],
    reason: str,
    bundle: Bundle,
    x: np.ndarray,
    one_by_one: dict[str, np.ndarray],
) -> None:
    with Session(bundle, [kind, "cpu"], pause_seconds=1000.0) as session:
        Plain.plan = list(plan)
        answers = session.run_many({"x": x}, ALL)
        assert {answer.device for answer in answers.values()} == {"cpu"}
        assert same(answers, one_by_one)
        assert session.placement()[0].reason == reason
        assert len(Plain.calls) == len(plan)


def test_all_answers_or_none(bundle: Bundle, x: np.ndarray) -> None:
    with Session(bundle, "joint", pause_seconds=1000.0) as session:
        Plain.plan = [None, DeviceError("watchdog")]
        with pytest.raises(DeviceError, match="could run tasks edge, seg, depth: joint: watchdog"):
            session.run_many({"x": x}, ALL)


def test_tasks_may_be_any_iterable(bundle: Bundle, x: np.ndarray) -> None:
    """The bundle's own mapping of them, for one."""
    with Session(bundle, "plain") as session:
        names = list(bundle.tasks)
        assert list(session.run_many({"x": x}, bundle.tasks)) == names  # type: ignore[arg-type]
        assert list(session.submit_many({"x": x}, iter(names)).result(10)) == names  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("seg", "must be a list of names, not 'seg'"),
        ([], "each once, not \\[\\]"),
        (["seg", "seg"], "each once, not \\['seg', 'seg'\\]"),
        (5, "must be a list of names, not 5"),
        ([["seg"]], "must be a list of names, not"),
        (["seg", "night"], "no task 'night'; its tasks are: depth, edge, seg"),
    ],
)
def test_tasks_that_are_none_are_refused(
    tasks: Any, message: str, bundle: Bundle, x: np.ndarray
) -> None:
    with Session(bundle, "plain") as session:
        with pytest.raises(UserError, match=message):
            session.run_many({"x": x}, tasks)
        with pytest.raises(UserError, match=message):
            session.submit_many({"x": x}, tasks).result()
        with pytest.raises(UserError, match="needs the input 'x'"):
            session.run_many({}, ALL)
        for wrong in (x, None, "x"):
            with pytest.raises(UserError, match="inputs must be a mapping of input names"):
                session.run_many(wrong, ALL)  # type: ignore[arg-type]
            with pytest.raises(UserError, match="inputs must be a mapping of input names"):
                session.submit_many(wrong, ALL).result()  # type: ignore[arg-type]
    assert Plain.calls == []


def test_tasks_share_codes_if_whatever_makes_them_is_the_same(
    bundle: Bundle, x: np.ndarray
) -> None:
    graph = bundle.graphs["depth"]
    changes: list[dict[str, Any]] = [
        {"input_name": "z"},
        {"input_scale": graph.input_scale * 2},
        {"input_zero": 1},
        {"gather": graph.gather[::-1]},
        {"input_shape": [*graph.input_shape, 1]},
    ]
    assert HostSides(bundle).groups(["seg", "edge", "depth"]) == [("seg", "depth"), ("edge",)]
    for change in changes:
        other = {**bundle.graphs, "depth": dataclasses.replace(graph, **change)}
        sides = HostSides(dataclasses.replace(bundle, graphs=other))
        assert sides.groups(["seg", "depth"]) == [("seg",), ("depth",)], change
    codes = [quantise_input(bundle.graphs[task], x) for task in ALL]
    assert np.array_equal(codes[1], codes[2]) and not np.array_equal(codes[0], codes[1])


def test_tasks_share_codes_behind_the_same_front_only(bundle: Bundle) -> None:
    front = {"front": {"inputs": {"x": [1, 4]}}}

    def groups(**fronts: bytes) -> list[tuple[str, ...]]:
        report = {"tasks": dict.fromkeys(fronts, front)}
        other = dataclasses.replace(bundle, fronts=fronts, report=report)
        return HostSides(other).groups(["seg", "depth", "edge"])

    assert groups(seg=b"1", depth=b"1") == [("seg", "depth"), ("edge",)]
    assert groups(seg=b"1", depth=b"2") == [("seg",), ("depth",), ("edge",)]
    assert groups(seg=b"1") == [("seg",), ("depth",), ("edge",)]
    assert groups(seg=b"1", edge=b"1", depth=b"1") == [("seg", "depth"), ("edge",)]
