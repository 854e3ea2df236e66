"""Clients that open connections and say half a word: everybody else is answered all the same."""

from __future__ import annotations

import errno
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from moesaic.host import Session
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.server import bind
from tests.host import serving as helpers
from tests.host.serving import (
    WAIT_SECONDS,
    Puppet,
    Reply,
    binary_request,
    frames,
    install_puppet,
    serving,
    two_tasks,
    write_bundle,
)
from tests.host.serving_command import Command, command, write_plugin

HALF_A_HEAD = b"POST /v2/models/seg/infer HTTP/1.1\r\nHost: x\r\nContent-Le"
HALF_A_BODY = HALF_A_HEAD + b"ngth: 1000\r\n\r\n{"
DESCRIPTORS = 64
CONNECTIONS = 200
WAVES = 5
PROMISED_SECONDS = 1.0
GUARD_SECONDS = 5.0
"""What is promised holds on a machine with nothing else to do; a busy one gets some more."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("flood")
    write_bundle(made / "bundle")
    write_plugin(made)
    return made


class GoodClient(threading.Thread):
    """Asks again and again, on a new connection each time, and looks at each answer."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.seconds: list[float] = []
        self.faults: list[str] = []
        self.stop = threading.Event()
        bundle = two_tasks()
        x = frames(bundle, "seg")
        self.body, self.headers = binary_request(x)
        with Session(bundle, ["cpu"]) as session:
            self.want = session.run({"x": x}, "seg")["y"]

    def ask(self) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2 * GUARD_SECONDS)
        try:
            connection.request("POST", "/v2/models/seg/infer", self.body, self.headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def run(self) -> None:
        while not self.stop.is_set():
            started = time.perf_counter()
            try:
                reply = self.ask()
                tail = reply.body[int(reply.headers.get("Inference-Header-Content-Length", 0)) :]
                if reply.status != 200 or tail != self.want.tobytes():
                    self.faults.append(f"{reply.status} {reply.body[:200]!r}")
            except (OSError, http.client.HTTPException) as error:
                self.faults.append(repr(error))
            self.seconds.append(time.perf_counter() - started)
            self.stop.wait(0.005)


@contextmanager
def good_client(server: Command) -> Iterator[GoodClient]:
    client = GoodClient(server.port)
    assert client.ask().status == 200  # the device's first frame takes longer
    client.start()
    yield client
    client.stop.set()
    client.join(4 * GUARD_SECONDS)
    assert not client.is_alive()


def half_open(server: Command, said: bytes) -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", server.port), timeout=GUARD_SECONDS)
    opened.sendall(said)
    return opened


@pytest.mark.parametrize("said", [b"", HALF_A_HEAD], ids=["nothing", "half a head"])
def test_good_client_is_answered_within_a_second_throughout(
    folder: Path, tmp_path: Path, said: bytes
) -> None:
    with command(folder, tmp_path, "cpu", descriptors=DESCRIPTORS) as server:
        with ExitStack() as stack, good_client(server) as good:
            for _ in range(WAVES):  # all of them stay open, as far as the server leaves them open
                for _ in range(CONNECTIONS):
                    stack.enter_context(half_open(server, said))
                time.sleep(0.4)
        check(server, good)
        server.process.send_signal(signal.SIGTERM)
        assert server.end()[0] == 0


def check(server: Command, good: GoodClient) -> None:
    """The good client had its answers in time, and the log is short."""
    text = server.said
    print(
        f"{WAVES * CONNECTIONS} connections, {len(good.seconds)} good requests, the slowest"
        f" took {max(good.seconds):.3f} s; promised: {PROMISED_SECONDS:g} s;"
        f" {text.count(chr(10))} lines of log, {text.count('Traceback')} tracebacks"
    )
    assert good.faults == []
    assert len(good.seconds) >= WAVES
    assert max(good.seconds) < GUARD_SECONDS
    assert "Traceback" not in text
    assert text.count("\n") <= 10, text


def test_server_among_half_a_bodies_still_answers(folder: Path, tmp_path: Path) -> None:
    """They take the room for bodies until their time is over: it is said so, at once."""
    few = ["--queue", "4", "--body-timeout", "2"]
    with command(folder, tmp_path, "cpu", few, DESCRIPTORS) as server, ExitStack() as stack:
        good = GoodClient(server.port)
        slowest = 0.0
        for _ in range(CONNECTIONS):
            stack.enter_context(half_open(server, HALF_A_BODY))
        for _ in range(10):
            started = time.perf_counter()
            reply = good.ask()
            slowest = max(slowest, time.perf_counter() - started)
            assert reply.status == 503 and "8 requests are in memory" in reply.error
            assert server.ask("GET", "/v2/health/live").status == 200
        print(f"{CONNECTIONS} halves of bodies; the slowest refusal took {slowest:.3f} s")
        assert slowest < GUARD_SECONDS
        deadline = time.monotonic() + WAIT_SECONDS
        while good.ask().status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "Traceback" not in server.said and server.said.count("\n") <= 10, server.said


def test_sigterm_among_half_open_connections_answers_what_was_accepted(
    folder: Path, tmp_path: Path
) -> None:
    body, headers = binary_request(frames(two_tasks(), "depth"))
    with command(folder, tmp_path, descriptors=DESCRIPTORS) as server, ExitStack() as stack:
        replies: list[Reply] = []
        client = threading.Thread(
            target=lambda: replies.append(
                server.ask("POST", "/v2/models/depth/infer", body, **headers)
            )
        )
        client.start()
        assert (tmp_path / "began").read_text() == "depth"
        for _ in range(CONNECTIONS):
            stack.enter_context(half_open(server, HALF_A_HEAD))
        server.process.send_signal(signal.SIGTERM)
        server.await_draining()
        for _ in range(CONNECTIONS):
            stack.enter_context(half_open(server, HALF_A_HEAD))
        (tmp_path / "go").write_text("on")
        client.join(WAIT_SECONDS)
        assert [reply.status for reply in replies] == [200]
        code, said = server.end()
        assert code == 0 and said.endswith("all accepted requests are answered\n")
        assert "Traceback" not in said and said.count("\n") <= 10, said


def test_too_few_descriptors_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="file descriptors are too few for a server") as said:
        Command(folder, tmp_path, "cpu", descriptors=32)
    assert "raise the limit with ulimit -n" in str(said.value)
    assert "Traceback" not in str(said.value)


class Exhausted(socket.socket):
    """A listener for whose connections there are no descriptors at first."""

    failures = 3

    def accept(self) -> tuple[socket.socket, Any]:
        if Exhausted.failures:
            Exhausted.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


def test_accept_without_descriptors_makes_room_and_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bind_exhausted(host: str, port: int) -> socket.socket:
        return Exhausted(fileno=bind(host, port).detach())

    monkeypatch.setattr(helpers, "bind", bind_exhausted)
    monkeypatch.setattr(Exhausted, "failures", 0)
    with serving(Session(two_tasks(), ["cpu"]), Limits()) as running:
        with ExitStack() as stack:
            for _ in range(5):
                opened = stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
                opened.sendall(HALF_A_HEAD)
            running.await_metric(6, "moesaic_connections")
            Exhausted.failures = 3
            assert running.ask("GET", "/v2/health/live").status == 200
            assert running.metric("moesaic_connections_closed_total", reason="room") == 3
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:2] == [
        "a connection could not be accepted: Too many open files",
        "a connection that waited was closed: there are as many as there may be",
    ]
    assert len(lines) == 4 and all(line.endswith("more times in 1 s)") for line in lines[2:])
    assert not any(record.exc_info for record in caplog.records)


def test_requests_leave_places_for_connections_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else connections at work would keep out who asks for the server's health."""
    install_puppet(monkeypatch)
    gate, bundle = threading.Event(), two_tasks()
    Puppet.plan = [gate]
    body, headers = binary_request(frames(bundle, "seg"))
    session, limits = Session(bundle, ["puppet"], queue_frames=16), Limits(connections=8)
    with serving(session, limits) as running, ExitStack() as stack:
        asking = []
        for count in range(1, 7):
            connection = running.connect()
            stack.callback(connection.close)
            connection.request("POST", "/v2/models/seg/infer", body, headers)
            asking.append(connection)
            deadline = time.monotonic() + WAIT_SECONDS
            while running.server.admission.accepted != count:  # to ask by HTTP would count, too
                assert time.monotonic() < deadline
                time.sleep(0.005)
        for _ in range(20):
            opened = socket.create_connection(("127.0.0.1", running.port))
            stack.enter_context(opened).sendall(HALF_A_HEAD)
        late = running.ask("POST", "/v2/models/seg/infer", body, headers)
        assert late.status == 503 and "too many connections are at work" in late.error
        assert int(late.headers["Retry-After"]) >= 1
        assert running.metric("moesaic_rejected_total", reason="connections") == 1
        assert running.metric("moesaic_connections") == 8
        gate.set()
        for connection in asking:
            assert connection.getresponse().status == 200
        assert running.ask("POST", "/v2/models/seg/infer", body, headers).status == 200


def test_tiny_chunks_do_not_occupy_the_server() -> None:
    """A hundred thousand of them are 0.6 MB, and would take the parser seconds."""
    chunks = b"1\r\n \r\n" * 100_000
    head = b"POST /v2/models/seg/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving(Session(two_tasks(), ["cpu"]), Limits()) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=WAIT_SECONDS) as opened:
            answer = b""
            try:
                opened.sendall(head + chunks)
            except ConnectionError:
                pass  # it is not read to its end
            try:
                answer = opened.recv(1 << 16)
            except ConnectionError:
                pass
            assert answer[:12] in (b"", b"HTTP/1.1 400")
        assert running.metric("moesaic_connections_closed_total", reason="malformed") == 1
        assert running.metric("moesaic_requests_total", outcome="cancelled") == 1
