"""Clients that keep a server waiting: for a head, a body, the next request, or their reading."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from moesaic.host import Session
from moesaic.host.pool import DeviceResult
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.logs import Folding
from moesaic.spec.bundle import Bundle
from tests.host.known_devices import know_devices
from tests.host.serving import (
    WAIT_SECONDS,
    Puppet,
    Running,
    binary_request,
    frames,
    serving,
    two_tasks,
)

HALF_A_HEAD = b"POST /v2/models/seg/infer HTTP/1.1\r\nHost: x\r\nContent-Le"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
FRAMES = 100_000
"""So many in an answer fit into no socket's buffer."""


class Talker(Puppet):
    """A device that answers a frame with many frames of zeros."""

    def run(self, task: str, patches: np.ndarray) -> DeviceResult:
        head = self._executors[task].graph.heads[0]
        return DeviceResult(np.zeros((FRAMES, head.codes), np.int16), [])


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return two_tasks()


def limits(**given: float) -> Limits:
    """Time-outs that never come, except those given."""
    forever = dict.fromkeys(("head_seconds", "answer_seconds", "idle_seconds"), 600.0)
    return Limits(**{**forever, **given})  # type: ignore[arg-type]


@pytest.fixture
def running(
    bundle: Bundle, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    know_devices(monkeypatch, talker=Talker)
    with serving(Session(bundle, ["talker"]), limits(**request.param)) as server:
        yield server


def only(name: str, seconds: float = 0.3) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("running", [{name: seconds}], indirect=True)


def connect(running: Running, said: bytes = b"", buffer_bytes: int = 0) -> socket.socket:
    opened = socket.socket()
    if buffer_bytes:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    opened.settimeout(WAIT_SECONDS)
    opened.connect(("127.0.0.1", running.port))
    opened.sendall(said)
    return opened


def read_all(opened: socket.socket) -> bytes:
    """What comes until the server closes."""
    with opened:
        return b"".join(iter(lambda: opened.recv(1 << 16), b""))


def closed(running: Running, reason: str) -> float:
    return running.metric("moesaic_connections_closed_total", reason=reason)


@only("head_seconds")
def test_half_a_head_is_answered_with_408_and_closed(running: Running) -> None:
    answer = read_all(connect(running, HALF_A_HEAD))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n") and b"Connection: close" in head
    assert json.loads(body) == {
        "error": "the head of the request did not arrive within 0.3 s; send it again"
    }
    assert closed(running, "head") == 1


@only("head_seconds")
def test_head_that_trickles_is_no_better(running: Running) -> None:
    opened = connect(running, HALF_A_HEAD[:4])
    started = time.monotonic()
    try:
        for byte in HALF_A_HEAD[4:] * 100:
            opened.sendall(bytes([byte]))
            time.sleep(0.02)
            assert time.monotonic() - started < WAIT_SECONDS
    except OSError:
        pass  # it was closed
    opened.close()
    running.await_metric(1, "moesaic_connections_closed_total", reason="head")


@only("head_seconds")
def test_second_head_has_the_same_time(running: Running) -> None:
    opened = connect(running)
    for _ in range(2):
        opened.sendall(LIVE)
        reply = http.client.HTTPResponse(opened)
        reply.begin()
        assert reply.status == 200 and reply.read() == b'{"live":true}'
        time.sleep(0.6)  # between requests, it is not a head that is awaited
    opened.sendall(HALF_A_HEAD)
    assert read_all(opened).startswith(b"HTTP/1.1 408")


@only("head_seconds", 1.0)
def test_connection_that_says_nothing_is_closed(running: Running) -> None:
    assert read_all(connect(running)) == b""
    assert closed(running, "head") <= 1  # the system may close it by itself


@only("idle_seconds")
def test_idle_connection_is_closed(running: Running) -> None:
    answer = read_all(connect(running, LIVE))
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b'{"live":true}')
    assert closed(running, "idle") == 1


@only("body_seconds")
def test_rest_of_a_refused_body_does_not_come_for_ever(running: Running) -> None:
    head = b"POST /v2/health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    opened = connect(running, head)
    assert opened.recv(1 << 16).startswith(b"HTTP/1.1 405")
    started = time.monotonic()
    with pytest.raises(OSError):
        while True:
            opened.sendall(b"x")
            time.sleep(0.02)
            assert time.monotonic() - started < WAIT_SECONDS
    opened.close()
    assert closed(running, "body") == 1


def slow_reader(running: Running, bundle: Bundle) -> socket.socket:
    """A client that asks for a large answer, and does not read it."""
    body, headers = binary_request(frames(bundle, "seg"))
    lines = ["POST /v2/models/seg/infer HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, "", ""]).encode()
    return connect(running, head + body, buffer_bytes=4096)


@only("answer_seconds")
def test_client_that_does_not_read_its_answer_loses_it(running: Running, bundle: Bundle) -> None:
    opened = slow_reader(running, bundle)
    running.await_metric(1, "moesaic_connections_closed_total", reason="answer")
    running.await_metric(1, "moesaic_connections")  # the one that asks for the metric
    assert running.server.connections.unsent_bytes == 0
    with pytest.raises(OSError):
        read_all(opened)
        raise ConnectionError("the whole answer came")
    assert running.metric("moesaic_requests_total", outcome="error") == 0


@only("answers_bytes", 1 << 20)
def test_answers_that_nobody_reads_are_bounded(running: Running, bundle: Bundle) -> None:
    readers = [slow_reader(running, bundle) for _ in range(3)]
    # Each answer is larger than all may be together: only the last one is kept.
    running.await_metric(2, "moesaic_connections_closed_total", reason="answers")
    running.await_metric(2, "moesaic_connections")
    size = len(running.infer("seg", frames(bundle, "seg")).body)
    assert size > 4 * FRAMES
    running.await_metric(3, "moesaic_connections_closed_total", reason="answers")
    for reader in readers:
        reader.close()
    running.await_metric(1, "moesaic_connections")
    assert running.server.connections.unsent_bytes == 0


@only("idle_seconds", 600.0)
def test_clients_that_wait_do_not_hold_a_server_up(running: Running, bundle: Bundle) -> None:
    """The fixture sees that it stops."""
    opened = [connect(running, said) for said in (HALF_A_HEAD, LIVE, LIVE + HALF_A_HEAD)]
    running.await_metric(4, "moesaic_connections")  # one asks
    running.server.drain()
    running.stopped()
    for connection in opened:
        with connection:
            assert connection.recv(1 << 16)[:12] in (b"", b"HTTP/1.1 200")


@only("close_seconds", 1.0)
def test_server_that_stops_does_not_wait_for_slow_readers(
    running: Running, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    opened = slow_reader(running, bundle)
    running.await_metric(1, "moesaic_requests_total", outcome="ok")
    running.server.drain()
    running.stopped()
    opened.close()
    assert [record for record in caplog.records if record.exc_info] == []


def test_lines_of_a_kind_are_said_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    logger, folding = logging.getLogger("tests.folding"), Folding(window_seconds=0.2)
    logger.addFilter(folding)

    def fail(number: int) -> None:
        try:
            raise ValueError(number)
        except ValueError:
            logger.exception("request %d failed", number)

    for number in range(100):
        logger.warning("connection %d is closed\nat %d", number, id(number))
        fail(number)
        logger.warning("something else") if number == 50 else None
    folding.flush()
    assert [record.getMessage() for record in caplog.records] == [
        "connection 0 is closed\nat " + str(id(0)),
        "request 0 failed",
        "something else",
    ]
    time.sleep(0.25)
    caplog.clear()
    folding.flush()
    assert [record.getMessage()[:42] for record in caplog.records] == [
        "connection 0 is closed (99 more times in 0",
        "request 0 failed (99 more times in 0 s)",
    ]
    assert not any(record.exc_info for record in caplog.records)
    caplog.clear()
    fail(7)  # it goes on, and is not said again for a while
    folding.flush(end=True)
    assert [record.getMessage()[:32] for record in caplog.records] == [
        "request 0 failed (1 more times i"
    ]
