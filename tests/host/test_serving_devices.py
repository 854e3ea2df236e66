"""Devices that fail behind a server: what clients, load balancers and metrics see of it."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesaic.host import DeviceError, Outputs, Placement, Session
from moesaic.host.outputs import DeviceCall
from moesaic.host.pool import DeviceResult, DeviceUnavailable
from moesaic.host.serving.admission import Admission
from moesaic.host.serving.bundles import alone
from moesaic.host.serving.connections import Connections
from moesaic.host.serving.errors import RequestError
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.metrics import Metrics
from moesaic.host.serving.models import Models
from moesaic.spec.bundle import Bundle
from tests.host.serving import (
    WAIT_SECONDS,
    Puppet,
    Running,
    frames,
    install_puppet,
    serving,
    two_tasks,
)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return two_tasks()


@pytest.fixture(autouse=True)
def puppet(monkeypatch: pytest.MonkeyPatch) -> None:
    install_puppet(monkeypatch)


def await_ready(running: Running) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while running.ask("GET", "/v2/health/ready").status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_another_device_answers_and_the_metrics_tell(bundle: Bundle) -> None:
    x = frames(bundle, "seg")
    session = Session(bundle, ["puppet", "cpu"], pause_seconds=1000.0)
    with serving(session, Limits()) as running:
        answers = [running.infer("seg", x)]
        assert running.metric("moesaic_failovers_total") == 0
        Puppet.plan = [DeviceError("watchdog")]
        answers += [running.infer("seg", x), running.infer("seg", x)]
        assert [reply.status for reply in answers] == [200, 200, 200]
        devices = ["puppet" if b'"puppet"' in reply.body else "cpu" for reply in answers]
        assert devices == ["puppet", "cpu", "cpu"]
        tail = 4 * bundle.graphs["seg"].heads[0].shape[1]
        assert len({reply.body[-tail:] for reply in answers}) == 1, "devices differ"
        assert running.metric("moesaic_failovers_total") == 1
        state = "moesaic_device_state"
        assert running.metric(state, device="puppet", state="passed over") == 1
        assert running.metric(state, device="puppet", state="first choice") == 0
        assert running.metric(state, device="cpu", state="first choice") == 1
        for device, count in (("puppet", 1), ("cpu", 2)):
            labels = {"task": "seg", "device": device}
            assert running.metric("moesaic_request_seconds_count", **labels) == count
            assert running.metric("moesaic_device_seconds_count", **labels) == count
        assert running.ask("GET", "/v2/health/ready").status == 200


def test_all_devices_failed(bundle: Bundle) -> None:
    x = frames(bundle, "seg")
    with serving(Session(bundle, ["puppet"], pause_seconds=1000.0), Limits()) as running:
        Puppet.plan = [DeviceError("watchdog")]
        for _ in range(2):  # when it fails, and while it is passed over
            reply = running.infer("seg", x)
            assert reply.status == 503 and "puppet: watchdog" in reply.error
            assert int(reply.headers["Retry-After"]) >= 1
        for path in ("/v2/health/ready", "/v2/models/seg/ready"):
            reply = running.ask("GET", path)
            assert reply.status == 503 and reply.json["ready"] is False
            assert reply.json["error"] == "no device works: puppet: watchdog"
        index = running.ask("POST", "/v2/repository/index", {}).json
        assert {model["state"] for model in index} == {"UNAVAILABLE"}
        assert running.ask("GET", "/v2/health/live").status == 200
        assert running.metric("moesaic_requests_total", task="seg", outcome="failed") == 2


def test_asking_for_readiness_brings_a_device_back(bundle: Bundle) -> None:
    with serving(Session(bundle, ["puppet"], pause_seconds=0.0), Limits()) as running:
        Puppet.plan = [DeviceError("watchdog")]
        Puppet.refuse = [DeviceError("still resetting")]
        assert running.infer("seg", frames(bundle, "seg")).status == 503
        await_ready(running)  # no request but these
        assert running.infer("seg", frames(bundle, "seg")).status == 200


def test_device_that_is_gone_for_good_stays_not_ready(bundle: Bundle) -> None:
    with serving(Session(bundle, ["puppet"], pause_seconds=0.0), Limits()) as running:
        Puppet.plan = [DeviceError("watchdog")]
        Puppet.refuse = [DeviceUnavailable("no such board")]
        assert running.infer("seg", frames(bundle, "seg")).status == 503
        reply = running.infer("seg", frames(bundle, "seg"))
        assert reply.status == 503 and "no such board" in reply.error
        assert "no such board" in running.ask("GET", "/v2/health/ready").json["error"]


def test_fault_of_the_server_is_told_and_does_not_stop_it(bundle: Bundle) -> None:
    x = frames(bundle, "seg")
    with serving(Session(bundle, ["puppet"]), Limits()) as running:
        Puppet.plan = [ZeroDivisionError("a bug")]
        reply = running.infer("seg", x)
        assert reply.status == 500 and reply.error == "the server failed: ZeroDivisionError"
        assert running.metric("moesaic_requests_total", task="seg", outcome="error") == 1
        assert running.metric("moesaic_queue_depth") == 0
        assert running.infer("seg", x).status == 200


class Stuck:
    """A session that takes everything, and answers what it is told when it is told."""

    def __init__(self) -> None:
        self.futures: list[Future[Outputs]] = []

    bundle = two_tasks()

    def placement(self) -> list[Placement]:
        return [Placement("board", "first choice", "")]

    def submit(self, inputs: Any, task: str) -> Future[Outputs]:
        self.futures.append(Future())
        return self.futures[-1]

    def answer(self, seconds: float, requests: int = 1) -> None:
        result, call = DeviceResult(np.zeros((1, 1), np.int16), []), DeviceCall(requests, requests)
        for _ in range(requests):
            self.futures.pop(0).set_result(Outputs({}, "board", seconds, result, call))


def test_retry_after_is_the_time_that_the_queue_takes() -> None:
    session = Stuck()
    served = [alone(session)]  # type: ignore[arg-type]
    metrics, model = Metrics(served), Models(served).find("seg")
    limits = Limits(queue=4)
    connections = Connections(limits, metrics)
    door = Admission(limits, connections, metrics)
    for _ in range(4):
        door.submit(model, {})
    assert door.retry_after() == 1  # nothing is known yet
    session.answer(3.0)
    assert door.retry_after() == 9  # three wait, 3 s each
    door.submit(model, {})
    with pytest.raises(RequestError, match="4 requests wait already") as refused:
        door.submit(model, {})
    assert refused.value.status == 503 and refused.value.headers == {"Retry-After": "12"}
    session.answer(0.5)
    assert door.retry_after() == 8  # three wait, (4 * 3 s + 0.5 s) / 5 each, rounded up
    for _ in range(3):
        session.answer(0.001)
    assert door.accepted == 0 and door.retry_after() == 1


def test_retry_after_counts_what_requests_shared_once() -> None:
    session = Stuck()
    served = [alone(session)]  # type: ignore[arg-type]
    metrics, model, limits = Metrics(served), Models(served).find("seg"), Limits(queue=16)
    door = Admission(limits, Connections(limits, metrics), metrics)
    for _ in range(16):
        door.submit(model, {})
    session.answer(8.0, requests=4)
    assert door.retry_after() == 24  # twelve wait, three calls of 8 s
    session.answer(8.0)
    session.answer(8.0)
    labels = {"task": "seg", "device": "board"}
    frames = metrics.registry.get_sample_value
    assert frames("moesaic_batch_frames_count", labels) == 3
    assert frames("moesaic_batch_frames_sum", labels) == 6


def test_no_part_of_the_runtime_needs_the_server() -> None:
    host = Path(__file__).parents[2] / "host"
    others = [path for path in host.rglob("*.py") if "serving" not in path.parts]
    users = [path for path in others if "host.serving" in path.read_text()]
    assert others and not users
