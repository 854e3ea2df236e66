"""A ``moesaic serve`` of its own process."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.host import gated_device
from tests.host.serving import WAIT_SECONDS, Reply

ROOT = Path(__file__).parents[2]


def write_plugin(folder: Path) -> Path:
    """A package that brings the device ``gated``; returns where Python has to look for it."""
    plugin = folder / "plugin" / "gated-0.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: gated\nVersion: 0\n")
    (plugin / "entry_points.txt").write_text(
        f"[moesaic.devices]\ngated = {gated_device.__name__}:GatedDevice\n"
    )
    return plugin.parent


class Command:
    """The command on a bundle, which is beside the plug-in of :func:`write_plugin`.

    Parameters
    ----------
    folder
        Where ``bundle`` and ``plugin`` are.
    scratch
        An empty folder: for the pipes of the gated device, and for what the command says.
    device, options
        ``--device`` and what else it is given.
    descriptors
        How many files and connections it may have open; as many as this process, if not given.
    first
        Models and devices as its first line names them, if there is more than the bundle.
    as_json
        Whether the first line is a JSON object.
    rpc_port
        Where it has to answer gRPC, if it was told so.
    """

    def __init__(
        self,
        folder: Path,
        scratch: Path,
        device: str = "gated",
        options: Sequence[str] = (),
        descriptors: int | None = None,
        first: tuple[str, str] | None = None,
        as_json: bool = False,
        rpc_port: int | None = None,
    ) -> None:
        for name in ("began", "go"):
            os.mkfifo(scratch / name)
        self.gate, self._log = scratch, scratch / "stderr"
        paths = [str(folder / "plugin"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(filter(None, paths))

        # By the shell: a `preexec_fn` makes Python fork, and between that and exec the child runs
        # gRPC's handlers, which poll descriptors that are closed by then and say so in the log.
        limit = f"ulimit -n {descriptors}; " if descriptors is not None else ""
        with self._log.open("wb") as log:  # a pipe that nobody reads would stop a server that talks
            self.process = subprocess.Popen(
                [
                    "sh",
                    "-c",
                    limit + 'exec "$@"',
                    "sh",
                    sys.executable,
                    "-m",
                    "moesaic.cli",
                    "serve",
                ]
                + [str(folder / "bundle"), "--port", "0", "--device", device, *options],
                env={
                    **os.environ,
                    "PYTHONPATH": path,
                    gated_device.FOLDER: str(scratch),
                    # On a busy machine, threads of torch wait for each other most of the time.
                    "OMP_NUM_THREADS": "1",
                },
                stderr=log,
            )
        deadline = time.monotonic() + WAIT_SECONDS
        while "\n" not in self.said and self.process.poll() is None:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.02)
        self._first = self.said.partition("\n")[0] + "\n"
        models, devices = map(re.escape, first or ("seg, depth", device))
        also = "" if rpc_port is None else f" and grpc://127.0.0.1:{rpc_port}"
        line = rf"serving {models} on http://127.0.0.1:(\d+){also}, device {devices}\n"
        said = json.loads(self._first)["message"] + "\n" if as_json else self._first
        found = re.fullmatch(line, said)
        assert found, self.said
        self.port = int(found[1])

    @property
    def said(self) -> str:
        """All that it said until now."""
        return self._log.read_text()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        """One request on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def await_draining(self) -> None:
        """Wait until a signal has arrived."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self.ask("GET", "/v2/health/ready").status != 503:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def end(self) -> tuple[int, str]:
        """Exit code, and what it said after its first line."""
        self.process.wait(WAIT_SECONDS)
        return self.process.returncode, self.said.removeprefix(self._first)


@contextmanager
def command(
    folder: Path,
    scratch: Path,
    device: str = "gated",
    options: Sequence[str] = (),
    descriptors: int | None = None,
    first: tuple[str, str] | None = None,
    as_json: bool = False,
    rpc_port: int | None = None,
) -> Iterator[Command]:
    """A running command, which ends with the block at the latest."""
    started = Command(folder, scratch, device, options, descriptors, first, as_json, rpc_port)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()
