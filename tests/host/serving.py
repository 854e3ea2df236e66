"""A running server for tests, and a device that does as it is told."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.package import bundle_files, write_directory
from moesaic.host import Session
from moesaic.host.pool import DeviceResult
from moesaic.host.serving.access import Access
from moesaic.host.serving.bundles import Served, alone
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.server import OPEN, Server, bind
from moesaic.spec.bundle import Bundle
from moesaic.spec.execute import Executor
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.e2e.bundles import make_bundle
from tests.host.known_devices import know_devices

WAIT_SECONDS = 30.0
"""Longer than anything takes on a busy machine."""


class Puppet:
    """A device that runs the integer graph, after what ``plan`` says: one entry per call.

    An exception is raised, an event is waited for, a number of seconds is slept. ``rest`` is done
    when the plan is empty. ``began`` is released once per call.
    """

    name = "puppet"
    plan: list[Any] = []
    rest: Any = None
    calls: list[str] = []
    refuse: list[Exception] = []
    began = threading.Semaphore(0)

    def __init__(self, bundle: Bundle) -> None:
        if Puppet.refuse:
            raise Puppet.refuse.pop(0)
        self._executors = {name: Executor(graph) for name, graph in bundle.graphs.items()}

    def run(self, task: str, patches: np.ndarray) -> DeviceResult:
        Puppet.calls.append(task)
        step = Puppet.plan.pop(0) if Puppet.plan else Puppet.rest
        Puppet.began.release()
        if isinstance(step, Exception):
            raise step
        if isinstance(step, threading.Event):
            assert step.wait(WAIT_SECONDS)
        elif step is not None:
            time.sleep(step)
        return DeviceResult(self._executors[task].run(patches), [])

    def close(self) -> None:
        """Nothing to give back."""


def install_puppet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``puppet`` a device beside ``cpu``, and forget its earlier uses."""
    Puppet.plan, Puppet.rest, Puppet.calls, Puppet.refuse = [], None, [], []
    Puppet.began = threading.Semaphore(0)
    know_devices(monkeypatch, puppet=Puppet)


def two_tasks() -> Bundle:
    """A bundle of the tasks ``seg`` and ``depth``, of different shapes."""
    graphs = {
        "seg": random_intgraph(Shape(), seed=1, task="seg"),
        "depth": random_intgraph(
            Shape(patches=6, tokens=7, head_rows=6, outputs=5), seed=2, task="depth"
        ),
    }
    return make_bundle(graphs, PRESETS["nano"])


def write_bundle(folder: Path) -> Bundle:
    """Write the bundle of :func:`two_tasks` where the command line can read it."""
    bundle, image = two_tasks(), WeightImage(PRESETS["nano"])
    codes = {
        name: compile_task(graph, PRESETS["nano"], image) for name, graph in bundle.graphs.items()
    }
    write_directory(
        folder,
        bundle_files(PRESETS["nano"], bundle.graphs, codes, image, {}, {"tasks": {}}, {}, {}),
    )
    return bundle


def frames(bundle: Bundle, task: str, count: int = 1, seed: int = 0) -> np.ndarray:
    """float32 [count, ...] for a task."""
    shape = (count, *bundle.graphs[task].input_shape[1:])
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message, which every refusal must have."""
        assert set(self.json) == {"error"}, self.json
        return self.json["error"]


@dataclass(frozen=True)
class Running:
    """A server in a thread of this process."""

    session: Session
    server: Server
    port: int
    thread: threading.Thread
    rpc_port: int = 0

    @property
    def address(self) -> str:
        """As clients want it."""
        return f"127.0.0.1:{self.port}"

    def stopped(self) -> None:
        """Wait until it has come to its end."""
        self.thread.join(WAIT_SECONDS)
        assert not self.thread.is_alive(), "the server does not stop"

    def connect(self) -> http.client.HTTPConnection:
        """A connection of its own."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request on a new connection; a ``body`` that is no bytes goes as JSON."""
        connection = self.connect()
        try:
            if body is not None and not isinstance(body, (bytes, Iterator)):
                body = json.dumps(body).encode()
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def infer(self, task: str, x: np.ndarray) -> Reply:
        """A valid request in binary form."""
        return self.ask("POST", f"/v2/models/{task}/infer", *binary_request(x))

    def metric(self, name: str, **labels: str) -> float:
        """A sample of /metrics; all of its labels that are not given are summed over."""
        text = self.ask("GET", "/metrics").body.decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def await_metric(self, value: float, name: str, **labels: str) -> None:
        """Wait until a metric has a value: for what no answer tells of."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (found := self.metric(name, **labels)) != value:
            assert time.monotonic() < deadline, f"{name}{labels} is {found}, not {value}"
            time.sleep(0.005)


def binary_request(x: np.ndarray, **message: Any) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with one input in binary form, and so its outputs."""
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": list(x.shape),
        "parameters": {"binary_data_size": x.nbytes},
    }
    text = json.dumps(
        {"inputs": [tensor], "parameters": {"binary_data_output": True}, **message}
    ).encode()
    return text + x.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


def json_request(x: np.ndarray, **message: Any) -> dict[str, Any]:
    """A request with one input in JSON, and so its outputs."""
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.tolist()}
    return {"inputs": [tensor], **message}


@contextmanager
def serving(session: Session, limits: Limits, access: Access = OPEN) -> Iterator[Running]:
    """Run a server; it is drained at the end, and must come to its end by that."""
    with serving_all([alone(session)], limits, access) as running:
        yield running


@contextmanager
def serving_all(
    bundles: Sequence[Served], limits: Limits, access: Access = OPEN, rpc: bool = False
) -> Iterator[Running]:
    """Like :func:`serving`, for several bundles, and over gRPC."""
    with bind("127.0.0.1", 0) as listener, bind("127.0.0.1", 0) as place:
        rpc_port = place.getsockname()[1]
        started = threading.Event()
        server = Server(bundles, limits, started.set, access, place if rpc else None)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        port = listener.getsockname()[1]
        listener.listen()  # who connects before the loop runs waits in the backlog
        thread.start()
        running = Running(bundles[0].session, server, port, thread, rpc_port)
        if rpc:  # nobody waits at that port until it answers
            assert started.wait(WAIT_SECONDS)
        try:
            yield running
        finally:
            server.drain()
            running.stopped()
    for served in bundles:
        served.session.close()
