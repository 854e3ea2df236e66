"""Clients that open connections and say half a word: everybody else is answered all the same."""

from __future__ import annotations

import http.client
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from moesaic.host import Session
from tests.host.serving import Reply, binary_request, frames, two_tasks, write_bundle
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
        server.process.send_signal(signal.SIGTERM)
        code, _ = server.end()
        assert code == 0
