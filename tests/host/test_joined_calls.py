"""Calls of one session that a device gets in one go: each gets its own rows, and its own errors."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from moesaic.host import DeviceError, Outputs, Session
from moesaic.host.pool import DeviceResult
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from tests.host.joint_devices import KINDS, WAIT_SECONDS, Plain, forget, three_tasks
from tests.host.known_devices import know_devices


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return three_tasks()


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    know_devices(monkeypatch, **KINDS)


def frames(bundle: Bundle, count: int, seed: int) -> np.ndarray:
    shape = (count, *bundle.graphs["seg"].input_shape[1:])
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(scope="module")
def given(bundle: Bundle) -> list[np.ndarray]:
    """Inputs of four requests."""
    return [frames(bundle, count, seed) for seed, count in enumerate((1, 2, 1, 3))]


@pytest.fixture(scope="module")
def alone(bundle: Bundle, given: list[np.ndarray]) -> list[np.ndarray]:
    """What each gets alone."""
    with Session(bundle, "cpu") as session:
        return [session.run({"x": x}, "seg")["y"] for x in given]


@contextmanager
def joined(
    bundle: Bundle, devices: Any, inputs: Sequence[Any], task: str = "seg", batch: int = 8
) -> Iterator[list[Future[Outputs]]]:
    """Submit while the device is busy, so that all wait; the device goes on in the block's end."""
    gate = threading.Event()
    plan = Plain.plan
    forget()
    Plain.plan = [gate]
    with Session(bundle, devices, pause_seconds=1000.0, batch_frames=batch) as session:
        first = session.submit({"x": frames(bundle, 1, 9)}, "edge")
        assert Plain.began.acquire(timeout=WAIT_SECONDS)
        Plain.calls, Plain.plan = [], plan
        futures = [session.submit(each, task) for each in inputs]
        gate.set()
        assert first.result(WAIT_SECONDS).call.requests == 1
        yield futures


@pytest.mark.parametrize("device", ["plain", "joint"])
def test_each_gets_its_own_rows(
    device: str, bundle: Bundle, given: list[np.ndarray], alone: list[np.ndarray]
) -> None:
    with joined(bundle, device, [{"x": x} for x in given]) as futures:
        answers = [future.result(WAIT_SECONDS) for future in futures]
    assert Plain.calls == [("seg", 7)]
    for answer, wanted in zip(answers, alone, strict=True):
        np.testing.assert_array_equal(answer["y"], wanted)
        assert answer.call is answers[0].call
        assert (answer.call.requests, answer.call.frames) == (4, 7)
        assert len(answer.result.codes) == len(wanted) == len(answer.result.counters)
        assert answer.latency_seconds > 0
    places = [one["PLACE"] for answer in answers for one in answer.result.counters]
    assert places == list(range(7))


def test_joined_calls_for_several_tasks(
    bundle: Bundle, given: list[np.ndarray], alone: list[np.ndarray]
) -> None:
    gate = threading.Event()
    Plain.plan = [gate]
    with Session(bundle, "joint", batch_frames=8) as session:
        first = session.submit({"x": given[0]}, "edge")
        assert Plain.began.acquire(timeout=WAIT_SECONDS)
        both = [session.submit_many({"x": x}, ["seg", "depth"]) for x in given]
        one = session.submit({"x": given[3]}, "seg")
        gate.set()
        answers = [future.result(WAIT_SECONDS) for future in both]
        assert np.array_equal(one.result(WAIT_SECONDS)["y"], alone[3])
        assert first.done() and Plain.calls[1:] == [("seg+depth", 7), ("seg", 3)]
        depths = [session.run({"x": x}, "depth")["y"] for x in given]
    for answer, seg, depth in zip(answers, alone, depths, strict=True):
        assert np.array_equal(answer["seg"]["y"], seg)
        assert np.array_equal(answer["depth"]["y"], depth)


@pytest.mark.parametrize("place", [0, 1, 3])
def test_what_is_wrong_with_one_is_its_own(
    place: int, bundle: Bundle, given: list[np.ndarray], alone: list[np.ndarray]
) -> None:
    x = given[0]
    wrongs: dict[str, Any] = {
        "finite": {"x": np.full_like(x, np.nan)},
        "shape": {"x": x[..., :-1]},
        "float32": {"x": x.astype(str)},
        "has no input 'y'": {"x": x, "y": x},
    }
    for message, wrong in wrongs.items():
        inputs: list[Any] = [{"x": each} for each in given]
        inputs[place] = wrong
        with joined(bundle, "plain", inputs) as futures:
            for i, future in enumerate(futures):
                if i == place:
                    with pytest.raises(UserError, match=message):
                        future.result(WAIT_SECONDS)
                else:
                    answer = future.result(WAIT_SECONDS)
                    assert np.array_equal(answer["y"], alone[i]) and answer.call.requests == 3
        assert len(Plain.calls) == 1


def test_all_wrong_never_reach_a_device(bundle: Bundle) -> None:
    wrong = np.full_like(frames(bundle, 1, 0), np.inf)
    with joined(bundle, "plain", [{"x": wrong}] * 3) as futures:
        for future in futures:
            with pytest.raises(UserError, match="finite"):
                future.result(WAIT_SECONDS)
    assert Plain.calls == []


def _rows_lost(result: DeviceResult) -> DeviceResult:
    return DeviceResult(result.codes[1:], result.counters)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (DeviceError("watchdog"), "watchdog"),
        (_rows_lost, "plain gave 6 answers for 7 frames of task seg"),
    ],
)
def test_next_device_repeats_the_joined_work(
    fault: Any, reason: str, bundle: Bundle, given: list[np.ndarray], alone: list[np.ndarray]
) -> None:
    Plain.plan = [fault]
    with joined(bundle, ["plain", "cpu"], [{"x": x} for x in given]) as futures:
        for future, wanted in zip(futures, alone, strict=True):
            answer = future.result(WAIT_SECONDS)
            assert answer.device == "cpu" and np.array_equal(answer["y"], wanted)
            assert answer.call.requests == 4


def test_no_device_could(bundle: Bundle, given: list[np.ndarray]) -> None:
    Plain.plan = [DeviceError("watchdog")]
    with joined(bundle, "plain", [{"x": x} for x in given]) as futures:
        for future in futures:
            with pytest.raises(DeviceError, match="task seg: plain: watchdog"):
                future.result(WAIT_SECONDS)
    assert Plain.calls == [("seg", 7)]


def test_fault_by_one_of_them_is_told_to_it_alone(
    bundle: Bundle, given: list[np.ndarray], alone: list[np.ndarray]
) -> None:
    # Together, and the second one alone.
    Plain.plan = [ZeroDivisionError("together"), None, ZeroDivisionError("alone")]
    with joined(bundle, "plain", [{"x": x} for x in given]) as futures:
        for i, future in enumerate(futures):
            if i == 1:
                with pytest.raises(ZeroDivisionError, match="alone"):
                    future.result(WAIT_SECONDS)
            else:
                assert np.array_equal(future.result(WAIT_SECONDS)["y"], alone[i])
    assert Plain.calls == [("seg", 7), ("seg", 1), ("seg", 2), ("seg", 1), ("seg", 3)]


def test_part_on_the_host_that_fails_for_one(
    bundle: Bundle,
    given: list[np.ndarray],
    alone: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from moesaic.host.sides import HostSides

    finish = HostSides.finish

    def failing(self: HostSides, task: str, codes: np.ndarray) -> Any:
        if len(codes) == 2:
            raise UserError("ONNX Runtime cannot run it")
        return finish(self, task, codes)

    monkeypatch.setattr(HostSides, "finish", failing)
    with joined(bundle, "plain", [{"x": x} for x in given]) as futures:
        with pytest.raises(UserError, match="ONNX Runtime"):
            futures[1].result(WAIT_SECONDS)
        for i in (0, 2, 3):
            assert np.array_equal(futures[i].result(WAIT_SECONDS)["y"], alone[i])
    assert Plain.calls == [("seg", 7)]


@pytest.mark.parametrize(("device", "batch"), [("one", 8), ("plain", 1)])
def test_what_is_not_to_be_joined_goes_one_by_one(
    device: str, batch: int, bundle: Bundle, given: list[np.ndarray]
) -> None:
    with joined(bundle, device, [{"x": x} for x in given], batch=batch) as futures:
        assert [future.result(WAIT_SECONDS).call.requests for future in futures] == [1] * 4
    assert Plain.calls == [("seg", len(x)) for x in given]


def test_next_one_is_no_part_of_a_batch_that_has_begun(
    bundle: Bundle, given: list[np.ndarray]
) -> None:
    gate = threading.Event()
    Plain.plan = [gate]
    with Session(bundle, "plain", batch_frames=8) as session:
        first = session.submit({"x": given[0]}, "seg")
        assert Plain.began.acquire(timeout=WAIT_SECONDS)
        assert not first.cancel()
        second, third = (session.submit({"x": x}, "seg") for x in given[1:3])
        assert second.cancel()
        gate.set()
        assert third.result(WAIT_SECONDS).call.requests == 1
    assert Plain.calls == [("seg", 1), ("seg", 1)]


def test_kept_future_keeps_no_inputs(bundle: Bundle) -> None:
    x = frames(bundle, 1, 1)
    seen = weakref.ref(x)
    with Session(bundle, "plain", batch_frames=8) as session:
        future = session.submit({"x": x}, "seg")
        future.result(WAIT_SECONDS)
        del x
        session.submit({"x": frames(bundle, 1, 2)}, "seg").result(WAIT_SECONDS)
        assert seen() is None


@pytest.mark.parametrize(
    "options",
    [
        {"batch_frames": 0},
        {"batch_frames": None},
        {"batch_frames": 1.5},
        {"queue_frames": -1},
        {"batch_wait_seconds": -1.0},
        {"batch_wait_seconds": "soon"},
    ],
)
def test_sizes_that_are_none_are_refused(options: Any, bundle: Bundle) -> None:
    with pytest.raises(UserError, match="batch_frames must be at least 1"):
        Session(bundle, "plain", **options)
