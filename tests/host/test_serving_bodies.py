"""Bodies: too long, compressed, cut short, too slow, too many."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from moesaic.host import Session
from moesaic.host.serving.limits import Limits
from moesaic.spec.bundle import Bundle
from tests.host.serving import (
    WAIT_SECONDS,
    Puppet,
    Running,
    binary_request,
    frames,
    install_puppet,
    serving,
    two_tasks,
)

PATH = "/v2/models/seg/infer"
LIMIT_BYTES = 20_000


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return two_tasks()


@pytest.fixture(scope="module")
def running(bundle: Bundle) -> Iterator[Running]:
    with serving(Session(bundle, ["cpu"]), Limits(body_bytes=LIMIT_BYTES)) as server:
        yield server


def test_body_at_the_limit_is_taken_and_one_byte_more_is_not(running: Running) -> None:
    for length, status in ((LIMIT_BYTES, 400), (LIMIT_BYTES + 1, 413)):
        reply = running.ask("POST", PATH, b" " * length)
        assert reply.status == status
    assert f"exceeds {LIMIT_BYTES} bytes" in reply.error


def test_json_has_a_limit_of_its_own(bundle: Bundle) -> None:
    body, headers = binary_request(frames(bundle, "seg", count=20))
    length = int(headers["Inference-Header-Content-Length"])
    with serving(Session(bundle, ["cpu"]), Limits(json_bytes=length)) as running:
        assert running.ask("POST", PATH, body, headers).status == 200
        reply = running.ask("POST", PATH, b" " * (length + 1))
        assert reply.status == 413 and "send tensors in binary form" in reply.error


def test_client_may_send_a_body_that_was_refused_by_its_length(running: Running) -> None:
    connection = running.connect()
    for _ in range(2):  # the connection stays usable
        connection.request("POST", PATH, bytes(50 * LIMIT_BYTES))
        reply = connection.getresponse()
        assert reply.status == 413 and reply.read()
    connection.close()


def test_body_of_unknown_length_is_cut_off_at_the_limit(running: Running) -> None:
    connection = running.connect()
    connection.putrequest("POST", PATH)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    connection.send(b"%x\r\n%b\r\n" % (LIMIT_BYTES + 1, bytes(LIMIT_BYTES + 1)))
    reply = connection.getresponse()  # without the end of the body
    assert reply.status == 413 and reply.headers["Connection"] == "close"
    connection.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_a_body_unpacks_to_is_limited(running: Running, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    bomb = pack(bytes(10_000_000))
    assert len(bomb) < LIMIT_BYTES
    reply = running.ask("POST", PATH, bomb, {"Content-Encoding": encoding})
    assert reply.status == 413
    reply = running.ask("POST", PATH, pack(b" " * LIMIT_BYTES), {"Content-Encoding": encoding})
    assert reply.status == 400 and "cannot be read" in reply.error


GZIPPED = gzip.compress(b"{}", mtime=0)
"""Without the time: test processes that started apart must agree on the tests' names."""


@pytest.mark.parametrize(
    ("body", "encoding", "status", "words"),
    [
        (b"{}", "br", 415, "'br' is not supported; use gzip, deflate or none"),
        (b"{}", "gzip, gzip", 415, "is not supported"),
        (b"{}", "gzip", 400, "not compressed as declared"),
        (b"", "gzip", 400, "cut short"),
        (GZIPPED[:-1], "gzip", 400, "cut short"),
        (GZIPPED + b"x", "gzip", 400, "something follows"),
        (zlib.compress(b"{}")[:-1] + b"\x00", "deflate", 400, "not compressed as declared"),
        (b"{}", "identity", 400, "needs a list of inputs"),
    ],
)
def test_encodings(running: Running, body: bytes, encoding: str, status: int, words: str) -> None:
    reply = running.ask("POST", PATH, body, {"Content-Encoding": encoding})
    assert reply.status == status and words in reply.error


def test_slow_body_gives_its_room_back(bundle: Bundle) -> None:
    with serving(Session(bundle, ["cpu"]), Limits(body_seconds=0.05)) as running:
        connection = running.connect()
        connection.putrequest("POST", PATH)
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        reply = connection.getresponse()
        assert reply.status == 408 and b"did not arrive within 0.05 s" in reply.read()
        connection.close()
        assert running.metric("moesaic_requests_in_flight") == 0


def test_server_that_stops_does_not_wait_for_a_body_for_ever(bundle: Bundle) -> None:
    limits = Limits(close_seconds=1.0)
    with serving(Session(bundle, ["cpu"]), limits) as running:
        connection = running.connect()
        connection.putrequest("POST", PATH)
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        running.await_metric(1, "moesaic_requests_in_flight")
        running.server.drain()
        reply = connection.getresponse()
        assert reply.status == 503 and b"shutting down" in reply.read()
        connection.close()


def test_bodies_in_memory_are_bounded(bundle: Bundle) -> None:
    with serving(Session(bundle, ["cpu"]), Limits(queue=1)) as running:
        body, headers = binary_request(frames(bundle, "seg"))
        halves = []
        for _ in range(2):
            connection = running.connect()
            connection.putrequest("POST", PATH)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                connection.putheader(name, value)
            connection.endheaders(body[:-1])
            halves.append(connection)
        running.await_metric(2, "moesaic_requests_in_flight")
        reply = running.ask("POST", PATH, body, headers)
        assert reply.status == 503 and "2 requests are in memory" in reply.error
        assert int(reply.headers["Retry-After"]) >= 1
        assert running.metric("moesaic_rejected_total", reason="bodies") == 1
        for connection in halves:
            connection.send(body[-1:])
            assert connection.getresponse().status == 200
            connection.close()


def test_full_queue_refuses_before_it_reads(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_puppet(monkeypatch)
    gate = threading.Event()
    Puppet.plan = [gate]
    x = frames(bundle, "seg")
    with serving(Session(bundle, ["puppet"], queue_frames=1), Limits(queue=1)) as running:
        statuses: list[int] = []
        first = threading.Thread(target=lambda: statuses.append(running.infer("seg", x).status))
        first.start()
        assert Puppet.began.acquire(timeout=WAIT_SECONDS)
        connection = running.connect()
        connection.putrequest("POST", PATH)
        connection.putheader("Content-Length", "1000000")
        connection.endheaders()  # and nothing of the body
        reply = connection.getresponse()
        assert reply.status == 503 and int(reply.headers["Retry-After"]) >= 1
        assert b"1 requests wait already" in reply.read()
        connection.close()
        large = bytes(5_000_000)  # more than sockets buffer
        reply = running.ask("POST", PATH, large, {"Connection": "close"})
        assert reply.status == 503 and "wait already" in reply.error
        assert running.metric("moesaic_rejected_total", reason="queue") == 2
        gate.set()
        first.join(WAIT_SECONDS)
        assert statuses == [200]
        assert running.infer("seg", np.zeros_like(x)).status == 200
