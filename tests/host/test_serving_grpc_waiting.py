"""Clients that keep the gRPC port waiting: their connections end, and HTTP notices nothing."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest
import tritonclient.grpc as triton

from moesaic.host import Session
from moesaic.host.serving.bundles import alone
from moesaic.host.serving.limits import Limits
from tests.host.serving import WAIT_SECONDS, serving_all, two_tasks

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How HTTP/2 begins: with settings, none here."""
HALF_A_HEAD = bytes([0, 0x40, 0, 1, 0, 0, 0, 0, 1, 0x82])
"""A frame of headers that is announced with 16 KiB and goes on for a byte."""
MOST = 8


def await_closed(connection: socket.socket) -> None:
    """Read until the server has closed the connection; what it says until then does not matter."""
    connection.settimeout(WAIT_SECONDS)
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass


def is_open(connection: socket.socket) -> bool:
    """Whether there may come more than has come."""
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return True
    except ConnectionResetError:
        pass
    return False


@pytest.mark.parametrize(
    "said", [b"", PREFACE, PREFACE + HALF_A_HEAD], ids=["nothing", "no call", "half a head"]
)
def test_connections_that_wait_are_closed(said: bytes) -> None:
    limits = Limits(connections=MOST, head_seconds=3.0, idle_seconds=3.0)
    session = Session(two_tasks(), ["cpu"])
    with serving_all([alone(session)], limits, rpc=True) as running, ExitStack() as stack:
        waiting = []
        for _ in range(MOST):
            place = ("127.0.0.1", running.rpc_port)
            waiting.append(stack.enter_context(socket.create_connection(place)))
            waiting[-1].sendall(said)
        time.sleep(0.2)  # of the server's, to take them
        # There are no more than that, and the other port has places of its own.
        surplus = stack.enter_context(socket.create_connection(place))
        await_closed(surplus)
        assert any(map(is_open, waiting))
        assert running.ask("GET", "/v2/health/ready").status == 200
        for connection in waiting:
            await_closed(connection)
        with triton.InferenceServerClient(f"127.0.0.1:{running.rpc_port}") as client:
            assert client.is_server_ready(client_timeout=WAIT_SECONDS)
