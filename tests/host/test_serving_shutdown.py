"""How a server ends: in this process, and as a command that gets signals."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moesaic.host import Session
from moesaic.host.serving.limits import Limits
from tests.host import gated_device
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

ROOT = Path(__file__).parents[2]


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
    plugin = made / "plugin" / "gated-0.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: gated\nVersion: 0\n")
    (plugin / "entry_points.txt").write_text(
        f"[moesaic.devices]\ngated = {gated_device.__name__}:GatedDevice\n"
    )
    return made


class Command:
    """A ``moesaic serve`` of its own process, on the gated device."""

    def __init__(self, folder: Path, gate: Path) -> None:
        for name in ("began", "go"):
            os.mkfifo(gate / name)
        self.gate = gate
        path = os.pathsep.join([str(folder / "plugin"), str(ROOT)])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moesaic.cli", "serve", str(folder / "bundle")]
            + ["--port", "0", "--device", "gated", "--queue", "2"],
            env={**os.environ, "PYTHONPATH": path, gated_device.FOLDER: str(gate)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.fullmatch(r"serving seg, depth on http://127.0.0.1:(\d+), device gated\n", line)
        assert found, line
        self.port = int(found[1])

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def await_draining(self) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while self.ask("GET", "/v2/health/ready").status != 503:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def end(self) -> tuple[int, str]:
        """Exit code, and what it said after its first line."""
        _, said = self.process.communicate(timeout=WAIT_SECONDS)
        return self.process.returncode, said


@contextmanager
def command(folder: Path, gate: Path) -> Iterator[Command]:
    started = Command(folder, gate)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


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
    with command(folder, tmp_path) as server, asked(server) as replies:
        server.process.send_signal(signal.SIGTERM)
        server.await_draining()
        late = server.ask("POST", "/v2/models/seg/infer", b"{}")
        assert late.status == 503 and "shutting down" in late.error
        (server.gate / "go").write_text("on")
        assert server.end() == (0, "all accepted requests are answered\n")
    assert [reply.status for reply in replies] == [200]
    assert (tmp_path / "closed").exists()


def test_second_signal_stops_at_once(folder: Path, tmp_path: Path) -> None:
    with command(folder, tmp_path) as server, asked(server) as replies:
        server.process.send_signal(signal.SIGTERM)
        server.await_draining()
        server.process.send_signal(signal.SIGINT)
        assert server.end() == (130, "moesaic: SIGINT again, stopping now\n")
    assert replies == []


def test_sigint_ends_an_idle_server(folder: Path, tmp_path: Path) -> None:
    with command(folder, tmp_path) as server:
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
        (["--max-body", "nan"], "--max-body above 0"),
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
