"""Clients that leave before their answer: their work is dropped, and nothing of it stays."""

from __future__ import annotations

import gc
import http.client
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

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

QUEUE = 3


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return two_tasks()


@pytest.fixture
def running(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    install_puppet(monkeypatch)
    session = Session(bundle, ["puppet"], queue_frames=QUEUE)
    with serving(session, Limits(queue=QUEUE)) as server:
        yield server


def send(running: Running, task: str, x: np.ndarray) -> http.client.HTTPConnection:
    """Ask, and do not wait for the answer."""
    connection = running.connect()
    body, headers = binary_request(x)
    connection.request("POST", f"/v2/models/{task}/infer", body, headers)
    return connection


def hold(running: Running, bundle: Bundle) -> tuple[threading.Event, http.client.HTTPConnection]:
    """Occupy the device until the event is set."""
    gate = threading.Event()
    Puppet.plan = [gate]
    connection = send(running, "seg", frames(bundle, "seg"))
    assert Puppet.began.acquire(timeout=WAIT_SECONDS)
    return gate, connection


def test_waiting_work_of_a_client_that_left_never_runs(running: Running, bundle: Bundle) -> None:
    gate, first = hold(running, bundle)
    for count in range(1, 4 * QUEUE):  # more often than the queue has places
        leaver = send(running, "depth", frames(bundle, "depth"))
        running.await_metric(2, "moesaic_queue_depth")
        leaver.close()
        running.await_metric(count, "moesaic_requests_total", task="depth", outcome="cancelled")
        running.await_metric(1, "moesaic_queue_depth")
        running.await_metric(1, "moesaic_requests_in_flight")
    gate.set()
    assert first.getresponse().status == 200
    first.close()
    assert Puppet.calls == ["seg"]
    assert running.infer("depth", frames(bundle, "depth")).status == 200
    assert running.metric("moesaic_requests_in_flight") == 0


def test_tensors_of_a_client_that_left_are_freed_at_once(
    running: Running, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors: list[weakref.ref[np.ndarray]] = []
    submit = running.session.submit

    def watched(inputs: dict[str, np.ndarray], task: str) -> Future[Any]:
        tensors.extend(weakref.ref(array) for array in inputs.values())
        return submit(inputs, task)

    monkeypatch.setattr(running.session, "submit", watched)
    gate, first = hold(running, bundle)
    leaver = send(running, "depth", frames(bundle, "depth"))
    running.await_metric(2, "moesaic_queue_depth")
    assert tensors[1]() is not None
    leaver.close()
    running.await_metric(1, "moesaic_requests_total", outcome="cancelled")
    gc.collect()
    assert tensors[1]() is None, "the device still runs, and the tensors wait for it"
    gate.set()
    assert first.getresponse().status == 200
    first.close()


def test_client_that_leaves_while_its_work_runs(running: Running, bundle: Bundle) -> None:
    gate, first = hold(running, bundle)
    first.close()
    running.await_metric(1, "moesaic_requests_total", task="seg", outcome="abandoned")
    # It occupies its place until the device is done.
    assert running.metric("moesaic_queue_depth") == 1
    gate.set()
    assert running.infer("seg", frames(bundle, "seg")).status == 200
    assert running.metric("moesaic_queue_depth") == 0
    assert Puppet.calls == ["seg", "seg"]


def test_client_that_leaves_amid_its_body(running: Running) -> None:
    connection = running.connect()
    connection.putrequest("POST", "/v2/models/seg/infer")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    running.await_metric(1, "moesaic_requests_in_flight")
    connection.close()
    running.await_metric(1, "moesaic_requests_total", task="seg", outcome="cancelled")
    assert running.metric("moesaic_requests_in_flight") == 0
    assert Puppet.calls == []
