"""Servers behind nginx are killed under load, and no client notices."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.host.serving import WAIT_SECONDS, binary_request, frames, write_bundle
from tests.host.serving_command import Command, command, write_plugin

ROOT = Path(__file__).resolve().parents[2]
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CLIENTS = 6
AFTER_KILL = 60
"""Requests that have to be answered behind each kill."""

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx here")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextmanager
def balanced(folder: Path, ports: list[int], retry: bool = True) -> Iterator[int]:
    """nginx with the project's configuration, but for addresses and where it writes."""
    folder.mkdir()
    text, port = (ROOT / "deploy" / "nginx.conf").read_text(), free_port()
    servers = [line for line in text.splitlines() if line.strip().startswith("server 127.0.0.1:")]
    assert len(servers) == 2
    for line, upstream in zip(servers, ports[:2], strict=True):
        text = text.replace(line, f"server 127.0.0.1:{upstream} max_fails=0;")
    more = "".join(f"server 127.0.0.1:{upstream} max_fails=0;\n" for upstream in ports[2:])
    text = text.replace("keepalive 32;", f"{more}keepalive 32;")
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("http {", f"http {{\n{places}", 1)
    text = text.replace("listen 8000;", f"listen 127.0.0.1:{port};")
    text = text.replace("/var/log/nginx/access.log", f"{folder}/access.log")
    if not retry:
        (line,) = [line for line in text.splitlines() if "proxy_next_upstream " in line]
        text = text.replace(line, "proxy_next_upstream off;")
    (folder / "nginx.conf").write_text(text)
    here = f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;"
    process = subprocess.Popen(
        [NGINX, "-p", folder, "-c", folder / "nginx.conf", "-g", here],  # type: ignore[list-item]
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


class Load:
    """Clients that ask one request after another, and note what they get."""

    def __init__(self, port: int, body: bytes, headers: dict[str, str]) -> None:
        self.answers: Counter[int | str] = Counter()
        self._port, self._body, self._headers = port, body, headers
        self._end, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def ask(self) -> int | str:
        """One request on a new connection: its status, or how it was lost."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=WAIT_SECONDS)
        try:
            connection.request("POST", "/v2/models/seg/infer", self._body, self._headers)
            response = connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        finally:
            connection.close()

    def _run(self) -> None:
        while not self._end.is_set():
            answer = self.ask()
            with self._lock:
                self.answers[answer] += 1

    def await_more(self, count: int) -> None:
        """Wait for as many further answers."""
        goal, deadline = self.answers.total() + count, time.monotonic() + WAIT_SECONDS
        while self.answers.total() < goal:
            assert time.monotonic() < deadline, self.answers
            time.sleep(0.005)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(WAIT_SECONDS)


def test_no_request_is_lost(tmp_path: Path) -> None:
    """Of three servers one is killed, then one is told to stop, both amid requests."""
    bundle = write_bundle(tmp_path / "bundle")
    write_plugin(tmp_path)
    body, headers = binary_request(frames(bundle, "seg", 100))
    with ExitStack() as stack:
        servers: list[Command] = []
        for name in "abc":
            (tmp_path / name).mkdir()
            servers.append(stack.enter_context(command(tmp_path, tmp_path / name, "cpu")))
        ports = [server.port for server in servers]
        port = stack.enter_context(balanced(tmp_path / "nginx", ports))
        with Load(port, body, headers) as load:
            load.await_more(AFTER_KILL)
            for server, kind in zip(servers, (signal.SIGKILL, signal.SIGTERM), strict=False):
                server.process.send_signal(kind)
                load.await_more(AFTER_KILL)
        assert servers[0].process.wait(WAIT_SECONDS) == -signal.SIGKILL
        assert servers[1].end() == (0, "all accepted requests are answered\n")
        print(load.answers)
        assert set(load.answers) == {200}, load.answers

        lines = (tmp_path / "nginx" / "access.log").read_text().splitlines()
        for gone in ports[:2]:  # it was asked in vain, and the client never knew
            assert [line for line in lines if f":{gone}," in line and '" 200 ' in line], gone

        # The same without the retries: so there was something to lose.
        alone = stack.enter_context(balanced(tmp_path / "off", ports, retry=False))
        lost = Load(alone, body, headers)
        assert 502 in {lost.ask() for _ in range(6)}
