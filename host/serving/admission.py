"""Who gets in: a bounded number of bodies in memory, a bounded queue in front of the devices."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from moesaic.host.serving.connections import Connections
from moesaic.host.serving.errors import RequestError
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.metrics import Metrics
from moesaic.host.serving.models import Model
from moesaic.host.session import QueueFull

_SHARE = 0.2
"""Weight of the latest answer in the running mean of device times, each of them divided by the
number of requests that shared it."""


class Admission:
    """The door in front of all sessions.

    Its methods are called on the event loop; answers are counted on the sessions' threads.

    Parameters
    ----------
    limits
        What it takes.
    connections
        What requests come through.
    metrics
        Where it counts.

    Attributes
    ----------
    draining
        Whether the server stops: what is accepted is finished, nothing else gets in.
    """

    def __init__(self, limits: Limits, connections: Connections, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._connections = connections
        self.draining = False
        self._bodies = 0
        self._accepted = 0
        self._mean_seconds = 0.0
        self._lock = threading.Lock()
        metrics.queue_limit.set(limits.queue)

    @property
    def accepted(self) -> int:
        """Requests that a device has not finished, the running ones included."""
        return self._accepted

    def retry_after(self) -> int:
        """Seconds until what is accepted now should be done, at least 1."""
        return max(1, math.ceil(self._mean_seconds * self._accepted))

    def _reject(self, reason: str, message: str) -> RequestError:
        self._metrics.rejected.labels(reason).inc()
        return RequestError(
            503, message, outcome="rejected", retry_after_seconds=self.retry_after()
        )

    def check(self) -> None:
        """Refuse a request that could not be accepted now.

        Raises
        ------
        RequestError
            503: the server stops, or the queue is full.
        """
        if self.draining:
            raise self.stopping()
        if self._accepted >= self._limits.queue:
            raise self._queue_full()

    def stopping(self) -> RequestError:
        """What those are told whom a server that stops does not answer."""
        return self._reject("draining", "the server is shutting down; ask another one")

    def answers_wait(self) -> RequestError:
        """What those are told whose answer would not fit beside those that wait for clients."""
        message = (
            "the answers that clients have not taken are too large; try again after Retry-After"
        )
        return self._reject("answers", message)

    def _queue_full(self) -> RequestError:
        return self._reject(
            "queue", f"{self._limits.queue} requests wait already; try again after Retry-After"
        )

    @contextmanager
    def body(self) -> Iterator[None]:
        """Room for one body, as long as the request lives.

        Raises
        ------
        RequestError
            503: too many bodies are in memory, or too many connections are at work.
        """
        if self._connections.crowded:
            message = "too many connections are at work; try again after Retry-After"
            raise self._reject("connections", message)
        if self._bodies >= self._limits.bodies:
            message = f"{self._bodies} requests are in memory already; try again after Retry-After"
            raise self._reject("bodies", message)
        self._bodies += 1
        self._metrics.in_flight.inc()
        try:
            yield
        finally:
            self._bodies -= 1
            self._metrics.in_flight.dec()

    def submit(self, model: Model, inputs: dict[str, NDArray[Any]]) -> Future[Any]:
        """Accept a request whose body has been read; gives what ``model.answer`` takes.

        Raises
        ------
        RequestError
            503: the server stops, or the queue is full.
        """
        self.check()
        started = time.perf_counter()
        try:
            future = model.submit(inputs)
        except QueueFull as error:
            raise self._queue_full() from error
        self._count(1)

        def done(finished: Future[Any]) -> None:
            if not finished.cancelled() and finished.exception() is None:
                answer = model.answer(finished.result())
                self._metrics.answered(model, answer, time.perf_counter() - started)
                seconds = answer.latency_seconds / answer.call.requests
                with self._lock:
                    mean = self._mean_seconds or seconds
                    self._mean_seconds = mean + _SHARE * (seconds - mean)
            self._count(-1)

        future.add_done_callback(done)
        return future

    def _count(self, change: int) -> None:
        with self._lock:
            self._accepted += change
            self._metrics.queue_depth.set(self._accepted)
