"""Requests that a server joins: each is answered, dropped, failed and counted alone."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from moesaic.host import DeviceError, Session
from moesaic.host.serving.bundles import alone
from moesaic.host.serving.limits import Limits
from moesaic.spec.bundle import Bundle
from tests.host.joint_devices import KINDS, WAIT_SECONDS, Plain, forget, three_tasks
from tests.host.known_devices import know_devices
from tests.host.serving import Running, binary_request, frames, serving_all, write_bundle
from tests.host.serving_command import command, write_plugin

LONG_SECONDS = 20 * WAIT_SECONDS
"""A wait for more requests that would fail a test, if anything waited for its end."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return three_tasks()


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    know_devices(monkeypatch, **KINDS)


@pytest.fixture(scope="module")
def given(bundle: Bundle) -> list[np.ndarray]:
    """Inputs of four requests, 7 frames together."""
    shape = bundle.graphs["seg"].input_shape[1:]
    rng = np.random.default_rng(1)
    return [rng.uniform(-1, 1, (n, *shape)).astype(np.float32) for n in (1, 2, 1, 3)]


@pytest.fixture(scope="module")
def wanted(bundle: Bundle, given: list[np.ndarray]) -> list[bytes]:
    with Session(bundle, "cpu") as session:
        return [session.run({"x": x}, "seg")["y"].tobytes() for x in given]


@contextmanager
def server(
    bundle: Bundle, devices: Any = "plain", queue: int = 16, rpc: bool = False, **sizes: Any
) -> Iterator[Running]:
    sizes.setdefault("batch_frames", 8)
    session = Session(bundle, devices, queue_frames=queue, pause_seconds=1000.0, **sizes)
    with serving_all([alone(session)], Limits(queue=queue), rpc=rpc) as running:
        yield running


class Clients:
    """Requests over connections of their own, sent one behind the other."""

    def __init__(self, running: Running, stack: ExitStack) -> None:
        self.running, self._stack = running, stack
        self.connections: list[http.client.HTTPConnection] = []
        self._accepted = 0

    def send(self, x: np.ndarray, model: str = "seg", **message: Any) -> None:
        """Ask, and wait until it is accepted."""
        connection = self.running.connect()
        self._stack.callback(connection.close)
        body, headers = binary_request(x, **message)
        connection.request("POST", f"/v2/models/{model}/infer", body, headers)
        self.connections.append(connection)
        self._accepted += 1
        self.running.await_metric(self._accepted, "moesaic_queue_depth")

    def left(self, number: int) -> None:
        """Close a connection, and wait until the server knows."""
        self.connections[number].close()
        self._accepted -= 1

    def answered(self, number: int, tail: bytes) -> None:
        """It must have got this output."""
        status, body = self.reply(number)
        assert status == 200 and body.endswith(tail)

    def reply(self, number: int) -> tuple[int, bytes]:
        response = self.connections[number].getresponse()
        return response.status, response.read()


@contextmanager
def held(running: Running, x: np.ndarray) -> Iterator[tuple[Clients, threading.Event]]:
    """Clients of a server whose device is busy with number 0, of another task, until the event."""
    plan, gate = Plain.plan, threading.Event()
    Plain.plan = [gate, *plan]
    with ExitStack() as stack:
        stack.callback(gate.set)
        clients = Clients(running, stack)
        clients.send(x, "edge")
        assert Plain.began.acquire(timeout=WAIT_SECONDS)
        Plain.calls.clear()
        yield clients, gate


def test_waiting_requests_go_together_and_get_their_own_rows(
    bundle: Bundle, given: list[np.ndarray], wanted: list[bytes]
) -> None:
    with server(bundle) as running, held(running, given[0]) as (clients, gate):
        for number, x in enumerate(given):
            clients.send(x, id=f"request {number}")
        gate.set()
        for number, (x, tail) in enumerate(zip(given, wanted, strict=True), 1):
            status, body = clients.reply(number)
            assert status == 200 and body.endswith(tail)
            answer = json.loads(body[: -len(tail)])
            assert answer["id"] == f"request {number - 1}"
            assert answer["outputs"][0]["shape"][0] == len(x)
            assert answer["parameters"]["latency_seconds"] > 0
        assert Plain.calls == [("seg", 7)]
        labels = {"task": "seg", "device": "plain"}
        assert running.metric("moesaic_requests_total", task="seg", outcome="ok") == 4
        assert running.metric("moesaic_request_seconds_count", **labels) == 4
        assert running.metric("moesaic_device_seconds_count", **labels) == 4
        assert running.metric("moesaic_batch_frames_count", **labels) == 1
        assert running.metric("moesaic_batch_frames_sum", **labels) == 7
        assert running.metric("moesaic_batch_frames_bucket", le="4.0", **labels) == 0
        assert running.metric("moesaic_batch_frames_bucket", le="8.0", **labels) == 1
        assert running.metric("moesaic_queue_depth") == 0


def test_batch_of_one_joins_nothing(bundle: Bundle, given: list[np.ndarray]) -> None:
    with server(bundle, batch_frames=1) as running, held(running, given[0]) as (clients, gate):
        for x in given:
            clients.send(x)
        gate.set()
        assert [clients.reply(number)[0] for number in range(1, 5)] == [200] * 4
    assert Plain.calls == [("seg", len(x)) for x in given]


def test_http_and_grpc_go_together(
    bundle: Bundle, given: list[np.ndarray], wanted: list[bytes]
) -> None:
    answers: list[np.ndarray] = []
    with server(bundle, rpc=True) as running, held(running, given[0]) as (clients, gate):
        clients.send(given[0])
        arrived = threading.Event()

        def done(result: Any, error: Any) -> None:
            answers.append(error or result.as_numpy("y"))
            arrived.set()

        with triton.InferenceServerClient(f"127.0.0.1:{running.rpc_port}") as client:
            tensor = triton.InferInput("x", list(given[1].shape), "FP32")
            tensor.set_data_from_numpy(given[1])
            client.async_infer("seg", [tensor], done)
            running.await_metric(3, "moesaic_queue_depth")
            gate.set()
            assert arrived.wait(WAIT_SECONDS)
        status, body = clients.reply(1)
        assert status == 200 and body.endswith(wanted[0])
        assert answers[0].tobytes() == wanted[1]
    assert Plain.calls == [("seg", 3)]


def test_requests_wait_for_each_other_while_the_device_idles(
    bundle: Bundle, given: list[np.ndarray], wanted: list[bytes]
) -> None:
    with ExitStack() as stack:
        sizes = {"batch_frames": 3, "batch_wait_seconds": LONG_SECONDS}
        running = stack.enter_context(server(bundle, **sizes))
        clients = Clients(running, stack)
        clients.send(given[0])
        assert not Plain.began.acquire(timeout=0.05)
        clients.send(given[1])  # now it is full
        for number in (0, 1):
            clients.answered(number, wanted[number])
        assert Plain.calls == [("seg", 3)]


def test_client_that_leaves_in_the_wait_runs_nowhere(
    bundle: Bundle, given: list[np.ndarray], wanted: list[bytes]
) -> None:
    with ExitStack() as stack:
        sizes = {"batch_frames": 2, "batch_wait_seconds": LONG_SECONDS}
        running = stack.enter_context(server(bundle, **sizes))
        clients = Clients(running, stack)
        clients.send(given[0])
        clients.left(0)
        running.await_metric(1, "moesaic_requests_total", task="seg", outcome="cancelled")
        running.await_metric(0, "moesaic_queue_depth")
        clients.send(given[0])
        assert not Plain.began.acquire(timeout=0.05), "the one that left fills the batch"
        clients.send(given[2])
        clients.answered(1, wanted[0])
        clients.answered(2, wanted[2])
    assert Plain.calls == [("seg", 2)]


def test_client_that_leaves_a_batch_that_waits_for_the_device(
    bundle: Bundle, given: list[np.ndarray], wanted: list[bytes]
) -> None:
    with server(bundle) as running, held(running, given[0]) as (clients, gate):
        for x in given:
            clients.send(x)
        clients.left(2)
        running.await_metric(1, "moesaic_requests_total", task="seg", outcome="cancelled")
        gate.set()
        for number in (1, 3, 4):
            clients.answered(number, wanted[number - 1])
    assert Plain.calls == [("seg", 5)]


def test_client_that_leaves_a_batch_that_runs(
    bundle: Bundle, given: list[np.ndarray], wanted: list[bytes]
) -> None:
    runs = threading.Event()
    Plain.plan = [runs]
    with server(bundle) as running, held(running, given[0]) as (clients, gate):
        for x in given:
            clients.send(x)
        gate.set()
        assert Plain.began.acquire(timeout=WAIT_SECONDS)
        clients.left(2)
        running.await_metric(1, "moesaic_requests_total", task="seg", outcome="abandoned")
        assert running.metric("moesaic_queue_depth") == 4
        runs.set()
        for number in (1, 3, 4):
            clients.answered(number, wanted[number - 1])
        running.await_metric(0, "moesaic_queue_depth")
    assert Plain.calls == [("seg", 7)]


@pytest.mark.parametrize(
    ("used", "plan", "statuses", "outcomes"),
    [
        (["plain", "cpu"], [DeviceError("watchdog")], [200] * 4, {"ok": 4}),
        ("plain", [DeviceError("watchdog")], [503] * 4, {"failed": 4}),
        # A fault by one of them: it is found by running each alone.
        (
            "plain",
            [ZeroDivisionError("a"), None, ZeroDivisionError("b")],
            [200, 500, 200, 200],
            {"ok": 3, "error": 1},
        ),
    ],
)
def test_devices_that_fail_amid_a_batch(
    used: Any,
    plan: list[Any],
    statuses: list[int],
    outcomes: dict[str, int],
    bundle: Bundle,
    given: list[np.ndarray],
) -> None:
    Plain.plan = plan
    with server(bundle, used) as running, held(running, given[0]) as (clients, gate):
        for x in given:
            clients.send(x)
        gate.set()
        assert [clients.reply(number)[0] for number in range(1, 5)] == statuses
        for outcome, count in outcomes.items():
            name = "moesaic_requests_total"
            assert running.metric(name, task="seg", outcome=outcome) == count
        assert running.metric("moesaic_failovers_total") == (used != "plain")
        assert running.metric("moesaic_queue_depth") == 0


def test_queue_is_as_full_as_ever(bundle: Bundle, given: list[np.ndarray]) -> None:
    with server(bundle, queue=3) as running, held(running, given[0]) as (clients, gate):
        clients.send(given[0])
        clients.send(given[2])
        refused = running.infer("seg", given[0])
        assert refused.status == 503 and "3 requests wait already" in refused.error
        gate.set()
        assert clients.reply(1)[0] == clients.reply(2)[0] == 200


def test_queue_that_holds_no_more_waits_for_no_more(
    bundle: Bundle, given: list[np.ndarray]
) -> None:
    with ExitStack() as stack:
        sizes = {"queue": 2, "batch_wait_seconds": LONG_SECONDS}
        running = stack.enter_context(server(bundle, **sizes))
        clients = Clients(running, stack)
        clients.send(given[0])
        clients.send(given[2])
        assert clients.reply(0)[0] == clients.reply(1)[0] == 200
    assert Plain.calls == [("seg", 2)]


def test_draining_server_answers_what_waits_in_a_batch(
    bundle: Bundle, given: list[np.ndarray], wanted: list[bytes]
) -> None:
    with server(bundle) as running, held(running, given[0]) as (clients, gate):
        for x in given:
            clients.send(x)
        running.server.drain()
        assert running.ask("GET", "/v2/health/ready").status == 503
        gate.set()
        for number in range(1, 5):
            clients.answered(number, wanted[number - 1])
        running.stopped()
    assert Plain.calls == [("seg", 7)]


def test_draining_server_waits_for_no_more(bundle: Bundle, given: list[np.ndarray]) -> None:
    with ExitStack() as stack:
        running = stack.enter_context(server(bundle, batch_wait_seconds=LONG_SECONDS))
        clients = Clients(running, stack)
        clients.send(given[0])
        assert not Plain.began.acquire(timeout=0.05)
        running.server.drain()
        assert clients.reply(0)[0] == 200
        running.stopped()


def test_command_joins_as_it_is_told(tmp_path: Path) -> None:
    made = write_bundle(tmp_path / "bundle")
    write_plugin(tmp_path)
    (gate := tmp_path / "gate").mkdir()
    statuses: list[int] = []
    clients: list[threading.Thread] = []
    body, headers = binary_request(frames(made, "seg"))
    options = ["--batch", "2", "--batch-wait-ms", "50"]
    with command(tmp_path, gate, options=options) as server, ExitStack() as stack:

        def ask() -> None:
            with suppress(OSError, http.client.HTTPException):  # of a server that was killed
                path = "/v2/models/seg/infer"
                statuses.append(server.ask("POST", path, body, **headers).status)

        def metric(name: str) -> float:
            text = server.ask("GET", "/metrics").body.decode()
            found = re.search(rf"^{name}(?:{{.*}})? ([0-9.]+)$", text, re.MULTILINE)
            return float(found[1]) if found else 0.0

        def await_depth(depth: float) -> None:
            deadline = time.monotonic() + WAIT_SECONDS
            while metric("moesaic_queue_depth") != depth:
                assert time.monotonic() < deadline
                time.sleep(0.005)

        stack.callback(server.process.kill)  # a client waits for ever else, if this fails
        for number in range(4):
            client, started = threading.Thread(target=ask), time.monotonic()
            client.start()
            clients.append(client)
            if number == 0:
                assert (gate / "began").read_text() == "seg"
                assert time.monotonic() - started >= 0.05, "it did not wait for more"
        await_depth(4)
        (gate / "go").write_text("on")
        for _ in range(2):
            assert (gate / "began").read_text() == "seg"
            (gate / "go").write_text("on")
        await_depth(0)
        for client in clients:
            client.join(WAIT_SECONDS)
        name = "moesaic_batch_frames"
        assert (metric(f"{name}_count"), metric(f"{name}_sum")) == (3, 4)
    assert statuses == [200] * 4
