"""How a server ends: in this process, and as a command that gets signals."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moesaic.host import Session
from moesaic.host.serving.limits import Limits
from tests.host.serving import (
    WAIT_SECONDS,
    Puppet,
    Reply,
    Running,
    binary_request,
    frames,
    install_puppet,
    serving,
    two_tasks,
    write_bundle,
)
from tests.host.serving_command import Command, command, write_plugin

QUEUE = ["--queue", "2"]


def test_draining_finishes_what_was_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    install_puppet(monkeypatch)
    gate, bundle = threading.Event(), two_tasks()
    Puppet.plan = [gate]
    x = frames(bundle, "seg")
    with serving(Session(bundle, ["puppet"]), Limits()) as running:
        replies: list[Reply] = []
        clients = [
            threading.Thread(target=lambda: replies.append(running.infer("seg", x)))
            for _ in range(3)
        ]
        for client in clients:
            client.start()
        running.await_metric(3, "moesaic_queue_depth")
        ticks, tick = threading.Semaphore(0), running.server.on_tick

        async def counted(counter: int) -> bool:
            ended = await tick(counter)
            ticks.release()
            return ended

        monkeypatch.setattr(running.server, "on_tick", counted)
        running.server.drain()
        for _ in range(3):  # of a server that goes on listening
            assert ticks.acquire(timeout=WAIT_SECONDS)
        ready = running.ask("GET", "/v2/health/ready")
        assert ready.status == 503 and ready.json["error"] == "the server is shutting down"
        assert running.ask("GET", "/v2/health/live").status == 200
        late = running.infer("seg", x)
        assert late.status == 503 and "shutting down" in late.error
        assert int(late.headers["Retry-After"]) >= 1
        assert running.metric("moesaic_rejected_total", reason="draining") == 1
        gate.set()
        for client in clients:
            client.join(WAIT_SECONDS)
        assert [reply.status for reply in replies] == [200] * 3
    with pytest.raises(ConnectionRefusedError):
        running.ask("GET", "/v2/health/live")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, and a plug-in that brings the device ``gated``."""
    made = tmp_path_factory.mktemp("serve")
    write_bundle(made / "bundle")
    write_plugin(made)
    return made


@contextmanager
def asked(server: Command) -> Iterator[list[Reply]]:
    """A client whose work the device has begun with; its answer is in the list at the end."""
    replies: list[Reply] = []
    body, headers = binary_request(frames(two_tasks(), "depth"))

    def ask() -> None:
        try:
            replies.append(server.ask("POST", "/v2/models/depth/infer", body, **headers))
        except (OSError, http.client.HTTPException):
            pass  # the server was forced to stop

    client = threading.Thread(target=ask)
    client.start()
    assert (server.gate / "began").read_text() == "depth"
    yield replies
    client.join(WAIT_SECONDS)


def test_sigterm_answers_what_was_accepted(folder: Path, tmp_path: Path) -> None:
    with command(folder, tmp_path, options=QUEUE) as server, asked(server) as replies:
        server.process.send_signal(signal.SIGTERM)
        server.await_draining()
        late = server.ask("POST", "/v2/models/seg/infer", b"{}")
        assert late.status == 503 and "shutting down" in late.error
        (server.gate / "go").write_text("on")
        assert server.end() == (0, "all accepted requests are answered\n")
    assert [reply.status for reply in replies] == [200]
    assert (tmp_path / "closed").exists()


def test_second_signal_stops_at_once(folder: Path, tmp_path: Path) -> None:
    with command(folder, tmp_path, options=QUEUE) as server, asked(server) as replies:
        server.process.send_signal(signal.SIGTERM)
        server.await_draining()
        server.process.send_signal(signal.SIGINT)
        assert server.end() == (130, "moesaic: SIGINT again, stopping now\n")
    assert replies == []


def test_sigint_ends_an_idle_server(folder: Path, tmp_path: Path) -> None:
    with command(folder, tmp_path, options=QUEUE) as server:
        assert server.ask("GET", "/v2/health/ready").status == 200
        server.process.send_signal(signal.SIGINT)
        assert server.end()[0] == 0
    assert (tmp_path / "closed").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "{taken}"], "port {taken}: Address already in use; choose another --port"),
        (["--port", "70000"], "port 70000: ports are 0 to 65535; choose another"),
        (["--host", "no-such-host.invalid"], "cannot listen on no-such-host.invalid, port 8000"),
        (["--queue", "0"], "--queue must be at least 1"),
        (["--batch", "0"], "--batch must be 1 to 1024"),
        (["--batch-wait-ms", "nan"], "--batch-wait-ms must be 0 to 1000, not nan"),
        (["--max-body", "nan"], "--max-body above 0"),
        (["--connections", "7"], "--connections must be 8 to 10000"),
        (["--head-timeout", "0"], "--head-timeout must be above 0 and at most 3600 seconds"),
        (["--body-timeout", "nan"], "--body-timeout must be above 0"),
        (["--answer-timeout", "-1"], "--answer-timeout must be above 0"),
        (["--idle-timeout", "inf"], "--idle-timeout must be above 0"),
        (["--port", "0", "--device", "abacus"], "unknown device 'abacus'"),
    ],
)
def test_wrong_options_are_one_sentence(folder: Path, arguments: list[str], words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = [argument.format(taken=port) for argument in arguments]
        done = subprocess.run(
            [sys.executable, "-m", "moesaic.cli", "serve", str(folder / "bundle"), *given],
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("moesaic: ") and done.stderr.count("\n") == 1
    assert words.format(taken=port) in done.stderr


def test_idle_connections_do_not_hold_a_server_up() -> None:
    with serving(Session(two_tasks(), ["cpu"]), Limits()) as running:
        connection = keep_alive(running)
    assert connection.sock is not None and connection.sock.recv(1) == b""
    connection.close()


def keep_alive(running: Running) -> http.client.HTTPConnection:
    connection = running.connect()
    connection.request("GET", "/v2/health/live")
    assert connection.getresponse().read()
    return connection
