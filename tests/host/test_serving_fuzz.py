"""Thousands of requests, right and wrong: each one is answered as it should be, none is a fault.

``FUZZ_SECONDS`` says for how long; without it, it is a bounded number of the same requests.
"""

from __future__ import annotations

import gzip
import http.client
import json
import logging
import os
import socket
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import h11
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from moesaic.host import Session
from moesaic.host.serving.limits import Limits
from tests.host.http_requests import BODY_LIMIT_BYTES, KINDS, LENGTH, Sent, Verdict, requests
from tests.host.serving import WAIT_SECONDS, Running, frames, serving, two_tasks

REFUSALS = {400, 404, 405, 408, 413, 415}
PATIENCE_SECONDS = 0.5

BUNDLE = two_tasks()
SHAPES = {task: tuple(graph.input_shape[1:]) for task, graph in BUNDLE.graphs.items()}


class Faults(logging.Filter):
    """Keeps what a server says of its own faults."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.said.append(f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}")
        return True


class Fuzzed:
    """A server, and what became of the requests so far."""

    def __init__(self, running: Running, faults: Faults, session: Session) -> None:
        self.running, self.faults, self.session = running, faults, session
        self.counts: Counter[str] = Counter()
        # Deep JSON can be read where the stack is as empty as the server's.
        self.reader = ThreadPoolExecutor(1)
        self.references: dict[tuple[str, bytes], np.ndarray] = {}

    def reference(self, task: str, x: np.ndarray) -> np.ndarray:
        """What the integer graph makes of frames."""
        key = (task, x.tobytes())
        if key not in self.references:
            self.references[key] = self.session.run({"x": x}, task)["y"]
        return self.references[key]

    def ask(self, sent: Sent) -> http.client.HTTPResponse | None:
        """The answer; ``None`` if the connection was closed without one."""
        with socket.create_connection(
            ("127.0.0.1", self.running.port), timeout=WAIT_SECONDS
        ) as opened:
            try:
                opened.sendall(sent.wire)
                if sent.closes:
                    opened.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has said what it thinks of it, maybe
            method = sent.wire.partition(b" ")[0].decode("latin-1")
            reply = http.client.HTTPResponse(opened, method=method)
            try:
                reply.begin()
            except (http.client.RemoteDisconnected, ConnectionError):
                return None
            reply.content = reply.read()  # type: ignore[attr-defined]
            return reply

    def check(self, sent: Sent) -> None:
        """One request."""
        self.faults.said.clear()
        self.counts["tried"] += 1
        reply = self.ask(sent)
        alive = self.running.ask("GET", "/v2/health/live")  # behind it, in the server's loop
        assert alive.status == 200
        assert self.faults.said == []
        if reply is None:
            assert sent.closes or sent.verdict is not Verdict.RIGHT
            assert sent.closes or sent.wire == b"" or reset(sent), "no answer"
            self.counts["closed without an answer"] += 1
        elif reply.status == 307:
            assert sent.verdict is not Verdict.RIGHT and reply.content == b""
            assert not reply.headers["Location"].endswith("/")
            self.counts["refused"] += 1
        elif reply.status in REFUSALS:
            assert sent.verdict is not Verdict.RIGHT, reply.content
            if sent.wire.partition(b" ")[0] != b"HEAD":
                message = json.loads(reply.content)
                assert list(message) == ["error"] and message["error"], message
            self.counts["refused"] += 1
        else:
            assert reply.status == 200, (reply.status, reply.content)
            assert sent.verdict is not Verdict.REFUSED, reply.content
            self.right(sent, reply)
            self.counts["right"] += 1

    def right(self, sent: Sent, reply: http.client.HTTPResponse) -> None:
        """The answer has the bits of what was asked, as another reader of it understands it."""
        task, message, x = self.reader.submit(understood, sent.wire).result()
        want = self.reference(task, x)
        text, binary = reply.content, b""
        if LENGTH in reply.headers:
            length = int(reply.headers[LENGTH])
            text, binary = reply.content[:length], reply.content[length:]
        answer = json.loads(text)
        assert answer["model_name"] == task and answer.get("id") == message.get("id")
        (tensor,) = answer["outputs"]
        assert tensor["name"] == "y" and tensor["datatype"] == "FP32"
        got = np.frombuffer(binary, "<f4") if binary else np.array(tensor["data"], np.float32)
        assert tensor["shape"] == list(want.shape)
        assert got.tobytes() == want.tobytes()


def reset(sent: Sent) -> bool:
    """Whether an answer may be lost: the server does not read all of what it refuses."""
    return len(sent.wire) > 10_000 or sent.verdict is Verdict.EITHER


def understood(wire: bytes) -> tuple[str, dict[str, Any], np.ndarray]:
    """Task, message and frames of a request."""
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(wire)
    request = reader.next_event()
    assert isinstance(request, h11.Request)
    body = b""
    while isinstance(event := reader.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    headers = {name.decode().lower(): value.decode("latin-1") for name, value in request.headers}
    packed = headers.get("content-encoding", "identity").strip().lower()
    if packed != "identity":
        body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else zlib.decompress(body)
    length = int(headers.get(LENGTH.lower(), len(body)))
    message = json.loads(body[:length])
    (tensor,) = message["inputs"]
    data = tensor["data"] if "data" in tensor else np.frombuffer(body[length:], "<f4")
    x = np.array(data, np.float64).astype(np.float32).reshape(tensor["shape"])
    task = unquote(request.target.decode().partition("?")[0]).split("/")[3]
    return task, message, x


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Fuzzed]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for each other
    faults = Faults()
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).addFilter(faults)
    limits = Limits(
        body_bytes=BODY_LIMIT_BYTES, head_seconds=PATIENCE_SECONDS, body_seconds=PATIENCE_SECONDS
    )
    with Session(BUNDLE, ["cpu"]) as session, serving(Session(BUNDLE, ["cpu"]), limits) as running:
        yield Fuzzed(running, faults, session)
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).removeFilter(faults)
    torch.set_num_threads(threads)


def fuzz(fuzzed: Fuzzed, kind: str, number: int | None) -> None:
    """A round of requests of a kind; without a number, always the same ones."""

    @settings(
        max_examples=KINDS[kind],
        deadline=None,
        database=None,
        derandomize=number is None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(sent=requests(SHAPES, kind))
    def each(sent: Sent) -> None:
        try:
            fuzzed.check(sent)
        except AssertionError:
            fuzzed.counts["wrong"] += 1
            raise

    (each if number is None else seed(number)(each))()


def test_every_request_is_answered_as_it_should_be(fuzzed: Fuzzed) -> None:
    started = time.monotonic()
    seconds = float(os.environ.get("FUZZ_SECONDS", 0))
    number: int | None = None
    try:
        while number is None or time.monotonic() - started < seconds:
            for kind in KINDS:
                fuzz(fuzzed, kind, number)
            number = 0 if number is None else number + 1
    finally:
        counts = fuzzed.counts
        print(
            f"HTTP: {counts['tried']} tried, {counts['refused']} refused, {counts['right']} right,"
            f" {counts['closed without an answer']} closed without an answer,"
            f" {counts['wrong']} wrong, in {time.monotonic() - started:.0f} s"
        )
    assert counts["right"] >= counts["tried"] // 10 and counts["refused"] >= counts["tried"] // 4
    # Nothing of it is left, and a right request has its answer.
    running = fuzzed.running
    running.await_metric(0, "moesaic_requests_in_flight")
    running.await_metric(1, "moesaic_connections")
    assert running.metric("moesaic_queue_depth") == 0
    assert running.metric("moesaic_requests_total", outcome="error") == 0
    x = frames(BUNDLE, "seg")
    assert running.infer("seg", x).body.endswith(fuzzed.reference("seg", x).tobytes())
