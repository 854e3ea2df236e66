"""The door in front of gRPC: the queue of HTTP, and an end to what keeps it waiting."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import grpc
import pytest
from tritonclient.grpc import service_pb2

from moesaic.host import DeviceError, Session
from moesaic.host.serving.bundles import alone
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.rpc import tensors
from moesaic.host.serving.rpc.messages import SERVICE
from moesaic.spec.bundle import Bundle
from tests.host.grpc_calls import LIMITS, address, call, typed
from tests.host.serving import (
    WAIT_SECONDS,
    Puppet,
    frames,
    install_puppet,
    serving_all,
    two_tasks,
)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return two_tasks()


@contextmanager
def half_deaf(port: int) -> Iterator[tuple[int, threading.Event]]:
    """A way to a port that carries all that clients say, and a little of what they are told."""
    listener, deaf, end = (
        socket.create_server(("127.0.0.1", 0)),
        threading.Event(),
        threading.Event(),
    )

    def carry(source: socket.socket, target: socket.socket, most: int) -> None:
        with suppress(OSError):
            while most > 0 and (data := source.recv(1000)):
                target.sendall(data)
                most -= len(data)
        if most <= 0:
            deaf.set()
            end.wait(WAIT_SECONDS)

    def run() -> None:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", port))
        back = threading.Thread(target=carry, args=(server, client, 20_000))
        back.start()
        carry(client, server, 1 << 30)
        back.join()
        client.close()
        server.close()

    thread = threading.Thread(target=run)
    thread.start()
    yield listener.getsockname()[1], deaf
    end.set()
    thread.join(WAIT_SECONDS)
    listener.close()


def test_a_message_that_does_not_come(bundle: Bundle) -> None:
    def never() -> Iterator[bytes]:
        threading.Event().wait(10)
        yield b""

    with serving_all([alone(Session(bundle, ["cpu"]))], LIMITS, rpc=True) as running:
        with grpc.insecure_channel(address(running)) as channel:
            stream = channel.stream_unary(f"/{SERVICE}/ModelInfer")
            with pytest.raises(grpc.RpcError) as caught:
                stream(never(), timeout=WAIT_SECONDS)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "did not arrive within 1 s" in caught.value.details()


def test_answers_that_nobody_takes_are_bounded(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose window stays shut: others are refused before the memory is gone."""
    x = frames(bundle, "seg")
    limits = Limits(answers_bytes=64 << 10)
    # More than the system's buffers take.
    monkeypatch.setattr(tensors, "write", lambda *_: bytes(32 << 20))
    with serving_all([alone(Session(bundle, ["cpu"]))], limits, rpc=True) as running:
        request = typed(x).SerializeToString()
        with half_deaf(running.rpc_port) as (port, deaf):
            any_length = [("grpc.max_receive_message_length", -1)]
            channel = grpc.insecure_channel(f"127.0.0.1:{port}", any_length)
            stuck = channel.unary_unary(f"/{SERVICE}/ModelInfer").future(request)
            assert deaf.wait(WAIT_SECONDS)
            with pytest.raises(grpc.RpcError, match="answers that clients have not taken"):
                call(running, "ModelInfer", request)
            assert running.infer("seg", x).status == 200
            assert running.metric("moesaic_rejected_total", reason="answers") == 1
            stuck.cancel()
            channel.close()


def test_the_same_queue(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    install_puppet(monkeypatch)
    gate, x = threading.Event(), frames(bundle, "seg")
    Puppet.plan = [gate]
    session = Session(bundle, ["puppet"], queue_frames=2, pause_seconds=1000.0)
    with serving_all([alone(session)], LIMITS, rpc=True) as running:
        request = typed(x).SerializeToString()
        channel = grpc.insecure_channel(address(running))
        method = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        calls = [method.future(request)]
        assert Puppet.began.acquire(timeout=WAIT_SECONDS)
        calls.append(method.future(request))
        running.await_metric(2, "moesaic_queue_depth")
        with pytest.raises(grpc.RpcError) as caught:
            method(request)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "2 requests wait already" in caught.value.details()
        trailing = dict(caught.value.trailing_metadata())
        assert int(trailing["retry-after"]) >= 1 and trailing["x-request-id"]
        assert running.metric("moesaic_requests_total", task="unknown", outcome="rejected") == 1
        assert running.infer("seg", x).status == 503  # HTTP has no queue of its own
        calls[1].cancel()  # its client leaves before a device has begun with it
        running.await_metric(1, "moesaic_requests_total", outcome="cancelled")
        running.server.drain()
        running.await_metric(1, "moesaic_queue_depth")
        with pytest.raises(grpc.RpcError, match="shutting down"):
            method(request)
        ready = channel.unary_unary(f"/{SERVICE}/ServerReady")(b"")
        assert not service_pb2.ServerReadyResponse.FromString(ready).ready
        gate.set()
        assert calls[0].result(WAIT_SECONDS)  # what was accepted is answered
        channel.close()


def test_devices_that_fail(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    install_puppet(monkeypatch)
    Puppet.plan = [DeviceError("watchdog"), ZeroDivisionError("a bug")]
    session = Session(bundle, ["puppet"], pause_seconds=0.0)
    request = typed(frames(bundle, "seg")).SerializeToString()
    with serving_all([alone(session)], LIMITS, rpc=True) as running:
        with pytest.raises(grpc.RpcError, match="puppet: watchdog") as caught:
            call(running, "ModelInfer", request)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError, match="the server failed: ZeroDivisionError") as caught:
            call(running, "ModelInfer", request)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert call(running, "ModelInfer", request)
        for outcome in ("failed", "error", "ok"):
            assert running.metric("moesaic_requests_total", task="seg", outcome=outcome) == 1
