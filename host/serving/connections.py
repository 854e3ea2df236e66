"""All connections of a server: bounded in number, in time, and in answers that nobody takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moesaic.host.serving.connection import WORKING, Connection, Stage
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.logs import logger
from moesaic.host.serving.metrics import Metrics

_NO_ROOM = "the server has no room for connections that wait; send requests at once, or try later"
_SAID = {
    "head": "a connection was closed: the head of a request took too long",
    "body": "a connection was closed: the body of a refused request took too long",
    "answer": "a connection was closed: its client did not take its answer",
    "room": "a connection that waited was closed: there are as many as there may be",
    "answers": "a connection was closed: the answers that clients do not take are too large",
}
"""What the log says; the other reasons to close are usual, or uvicorn tells of them."""


class Connections:
    """The table of open connections. All of it runs on the event loop.

    A new connection always gets in: if there are too many, the one that has waited longest for a
    request is closed, and requests are refused before connections at work take all places.

    Parameters
    ----------
    limits
        How long each stage may take, and how much may be unsent.
    metrics
        Where it counts.

    Attributes
    ----------
    limit
        Most connections; ``limits.connections``, or what there are file descriptors for.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limit = limits.connections
        self._limits, self._metrics = limits, metrics
        # In the order in which they came to their stages: who waits longest comes first.
        self._open: dict[Connection, None] = {}
        self._working: set[Connection] = set()
        self._unsent: dict[Connection, int] = {}
        metrics.connections.set_function(lambda: len(self._open))
        metrics.connections_limit.set_function(lambda: self.limit)

    @property
    def crowded(self) -> bool:
        """Whether those at work leave no more than a quarter of the places to those that wait."""
        return len(self._working) > self.limit - self.limit // 4

    @property
    def unsent_bytes(self) -> int:
        """Size of the answers that clients have not taken yet."""
        return sum(self._unsent.values())

    def add(self, connection: Connection) -> None:
        """Take a new one in; another one may have to leave."""
        if len(self._open) >= self.limit and not self.make_room():
            self.closed("room")
            connection.abort()
        self._open[connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget one that is closed."""
        self._open.pop(connection, None)
        self._working.discard(connection)

    def moved(self, connection: Connection) -> None:
        """A connection has come to another stage."""
        if self._open.pop(connection, True) is None:
            self._open[connection] = None
            if connection.stage in WORKING:
                self._working.add(connection)
            else:
                self._working.discard(connection)

    def closed(self, reason: str) -> None:
        """Count a connection that is closed before its client wants it, and say so."""
        self._metrics.connections_closed.labels(reason).inc()
        if reason in _SAID:
            logger.warning(_SAID[reason])

    def make_room(self) -> bool:
        """Close the connection that waits longest; whether there was one."""
        for connection in self._open:
            if connection.stage not in WORKING:
                break
        else:
            return False
        # It leaves the table at once: its descriptor is free two turns of the event loop later.
        del self._open[connection]
        if connection.stage is not Stage.CLOSING:
            self.closed("room")
        if connection.stage is Stage.HEAD and connection.conn.trailing_data[0]:
            connection.refuse(503, _NO_ROOM)
        connection.abort()
        return True

    def sweep(self, now: float) -> None:
        """Close those that have been at a stage for too long.

        Parameters
        ----------
        now
            Seconds of the event loop's clock.
        """
        limits = self._limits
        for connection in list(self._open):
            seconds = now - connection.since
            if connection.stage is Stage.HEAD and seconds > limits.head_seconds:
                self.closed("head")
                if connection.conn.trailing_data[0]:
                    took = f"the head of the request did not arrive within {limits.head_seconds:g}"
                    connection.refuse(408, f"{took} s; send it again")
                else:
                    connection.close()
            elif connection.stage is Stage.REST and seconds > limits.body_seconds:
                self.closed("body")
                connection.close()
            elif (
                connection.stage in (Stage.ANSWER, Stage.CLOSING)
                and seconds > limits.answer_seconds
            ):
                self.closed("answer")
                connection.abort()

    @contextmanager
    def sending(self, connection: Connection, size_bytes: int) -> Iterator[None]:
        """An answer is in memory as long as it is sent; the oldest ones go if it is too much."""
        self._unsent[connection] = size_bytes
        while self.unsent_bytes > self._limits.answers_bytes and len(self._unsent) > 1:
            oldest = next(iter(self._unsent))
            del self._unsent[oldest]
            self.closed("answers")
            oldest.abort()
        try:
            yield
        finally:
            self._unsent.pop(connection, None)
