"""Devices that fail: another one answers with the same bits, and the failed one comes back."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from moesaic.host import DeviceError, QueueFull, Session
from moesaic.host.failures import TransportError
from moesaic.host.pool import DevicePool, DeviceResult, DeviceUnavailable
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.execute import Executor
from moesaic.spec.hostside import quantise_input
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.e2e.bundles import make_bundle
from tests.host.known_devices import know_devices
from tests.outputs import only_output


class Flaky:
    """A device that runs the integer graph, or does what ``plan`` says: one entry per call.

    An exception is raised; ``"wrong"`` spoils the answer; an event is waited for.
    """

    name = "flaky"
    opened = closed = 0
    plan: list[Any] = []
    refuse: list[Exception] = []
    active = 0

    def __init__(self, bundle: Bundle) -> None:
        if Flaky.refuse:
            raise Flaky.refuse.pop(0)
        Flaky.opened += 1
        self.bundle = bundle

    def run(self, task: str, patches: np.ndarray) -> DeviceResult:
        Flaky.active += 1
        assert Flaky.active == 1, "a device does one thing at a time"
        try:
            step = Flaky.plan.pop(0) if Flaky.plan else None
            if isinstance(step, Exception):
                raise step
            if isinstance(step, threading.Event):
                assert step.wait(10)
            codes = Executor(self.bundle.graphs[task]).run(patches)
            return DeviceResult(codes + 1 if step == "wrong" else codes, [])
        finally:
            Flaky.active -= 1

    def close(self) -> None:
        Flaky.closed += 1


@pytest.fixture
def bundle() -> Bundle:
    graph = random_intgraph(Shape(), seed=1)
    made = make_bundle({"task": graph}, PRESETS["nano"])
    x = np.random.default_rng(1).uniform(-1, 1, (1, *graph.input_shape[1:])).astype(np.float32)
    codes = Executor(graph).run(quantise_input(graph, x))
    made.samples.update({"task.input": x, "task.codes": codes})
    return made


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    Flaky.opened = Flaky.closed = Flaky.active = 0
    Flaky.plan, Flaky.refuse = [], []
    know_devices(monkeypatch, flaky=Flaky)


def sample(bundle: Bundle, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """An input, and the output that every device must give for it."""
    graph = bundle.graphs["task"]
    x = np.random.default_rng(seed).uniform(-1, 1, (1, *graph.input_shape[1:])).astype(np.float32)
    return {"x": x}, only_output(graph, Executor(graph).run(quantise_input(graph, x)))


@pytest.mark.parametrize(
    "fault", [DeviceError("watchdog"), TransportError("bus is gone"), OSError("device vanished")]
)
def test_frame_of_a_failing_device_is_run_by_the_next_one(bundle: Bundle, fault: Exception) -> None:
    inputs, expected = sample(bundle, 2)
    with Session(bundle, ["flaky", "cpu"]) as session:
        assert session.run(inputs).device == "flaky"
        Flaky.plan = [fault]
        answer = session.run(inputs)
        assert answer.device == "cpu" and answer.latency_seconds > 0
        np.testing.assert_array_equal(answer["y"], expected)
        failed, stand_in = session.placement()
        assert failed.state == "passed over" and failed.reason == str(fault)
        assert stand_in.state == "first choice"
        assert Flaky.closed == 1
    assert Flaky.opened == Flaky.closed == 1


def test_failed_device_comes_back_after_a_right_answer(bundle: Bundle) -> None:
    inputs, expected = sample(bundle, 3)
    with Session(bundle, ["flaky", "cpu"], pause_seconds=0.0) as session:
        Flaky.plan = [DeviceError("watchdog"), "wrong", DeviceError("again")]
        devices = []
        for _ in range(4):
            answer = session.run(inputs)
            np.testing.assert_array_equal(answer["y"], expected)
            devices.append(answer.device)
        # The fault; a self-check that fails by its answer; one that fails at all; a good one.
        assert devices == ["cpu", "cpu", "cpu", "flaky"]
        assert [place.state for place in session.placement()] == ["first choice", "stand-in"]
    assert Flaky.opened == Flaky.closed == 4


def test_pause_doubles_with_every_failure(bundle: Bundle) -> None:
    now = [100.0]
    devices = DevicePool(bundle, ["flaky"], {}, pause_seconds=1.0, clock=lambda: now[0])
    (slot,) = devices.slots
    for pause in (1.0, 2.0, 4.0):
        with slot.lock:
            devices.fail(slot, "fault")
            assert slot.retry_at == now[0] + pause
            now[0] += pause - 0.1
            assert devices.ready(slot) is None
            now[0] += 0.1
            assert devices.ready(slot) is not None
    devices.worked(slot)
    devices.fail(slot, "fault")
    assert slot.retry_at == now[0] + 1.0
    for _ in range(20):
        devices.fail(slot, "fault")
    assert slot.retry_at == now[0] + 60.0


def test_device_that_cannot_be_opened_is_not_tried_again(bundle: Bundle) -> None:
    inputs, _ = sample(bundle, 4)
    Flaky.refuse = [UserError("bundle is for another architecture")]
    with Session(bundle, ["flaky", "cpu"], pause_seconds=0.0) as session:
        assert session.run(inputs).device == session.run(inputs).device == "cpu"
        assert "another architecture" in session.placement()[0].reason
    assert Flaky.opened == 0


def test_strict_session_does_not_fall_back(bundle: Bundle) -> None:
    inputs, _ = sample(bundle, 5)
    with Session(bundle, ["flaky", "cpu"], strict=True) as session:
        Flaky.plan = [DeviceError("watchdog")]
        with pytest.raises(DeviceError, match="flaky: watchdog"):
            session.run(inputs)
        with pytest.raises(DeviceError, match="no device works"):
            _ = session.device
    Flaky.refuse = [DeviceUnavailable("no such board")]
    with pytest.raises(UserError, match="no such board"):
        Session(bundle, ["flaky", "cpu"], strict=True)


def test_wrong_input_is_nobodys_failure(bundle: Bundle) -> None:
    with Session(bundle, ["flaky"]) as session:
        with pytest.raises(UserError):
            session.run({})
        assert session.placement()[0].state == "first choice"


def test_eight_threads_lose_no_frame_while_devices_fail(bundle: Bundle) -> None:
    cases = [sample(bundle, seed) for seed in range(8)]
    rng = np.random.default_rng(6)
    faults: list[Any] = [DeviceError("watchdog"), TransportError("bus is gone"), None, None, None]
    Flaky.plan = [faults[i] for i in rng.integers(0, len(faults), 200)]
    wrong: list[str] = []
    used: set[str] = set()

    with Session(bundle, ["flaky", "cpu"], pause_seconds=0.0) as session:

        def client(number: int) -> None:
            inputs, expected = cases[number]
            for _ in range(12):
                answer = session.run(inputs)
                used.add(answer.device)
                if not np.array_equal(answer["y"], expected):
                    wrong.append(f"client {number} on {answer.device}")

        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    assert not wrong and used == {"flaky", "cpu"}
    assert Flaky.opened == Flaky.closed > 1


def test_submitted_frames_come_back_in_order_and_the_queue_is_bounded(bundle: Bundle) -> None:
    cases = [sample(bundle, seed) for seed in range(3)]
    gate = threading.Event()
    with Session(bundle, ["flaky"], queue_frames=3) as session:
        Flaky.plan = [gate]
        futures = [session.submit(inputs) for inputs, _ in cases]
        with pytest.raises(QueueFull, match="queue is full"):
            session.submit(cases[0][0])
        gate.set()
        for future, (_, expected) in zip(futures, cases, strict=True):
            np.testing.assert_array_equal(future.result(10)["y"], expected)
        session.submit(cases[0][0])  # there is room again; close waits for it
    assert Flaky.closed == 1
