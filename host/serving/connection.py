"""One connection: uvicorn's HTTP/1.1 protocol, with an end to everything that a client may keep
it waiting for."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractContextManager
from enum import Enum
from http import HTTPStatus
from typing import Any, Protocol

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_HEAD_BYTES = 16 << 10
"""What is kept of a head until its end has come."""
_RECEIVE_BYTES = 64 << 10
"""What is taken from a connection in one turn of the event loop, and parsed in one go."""
_FREE_CHUNKS, _CHUNK_BYTES = 1000, 256
"""Chunks of a body that may be of any size; the mean size of all others must be at least this. h11
takes some 20 us for one, however short."""


class Stage(Enum):
    """What a connection is at."""

    HEAD = "the head of a request is awaited or has begun to arrive"
    IDLE = "answered, and nothing has come since"
    REST = "answered, but the body still arrives; it is skipped"
    WORK = "a request is read or worked on"
    REFUSED = "a request that was refused is read to its end"
    ANSWER = "the client does not take its answer as fast as it could go"
    CLOSING = "closed, except that the client has not taken all of its answer"


WORKING = frozenset({Stage.WORK, Stage.ANSWER})
"""Stages in which a connection is not closed to make room for another."""


class _Parser(h11.Connection):
    """h11 with a bound on the work that a few bytes can make: chunks must not be tiny."""

    _chunks = _bytes = 0

    def next_event(self) -> Any:
        """The next part of a request."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            if self._chunks > _FREE_CHUNKS + self._bytes // _CHUNK_BYTES:
                raise h11.RemoteProtocolError("the chunks of the body are too small")
        return event


class Table(Protocol):
    """What a connection tells the table of all connections."""

    def add(self, connection: Connection) -> None:
        """It is open."""

    def remove(self, connection: Connection) -> None:
        """It is closed."""

    def moved(self, connection: Connection) -> None:
        """It has come to another stage."""

    def closed(self, reason: str) -> None:
        """It is closed before its client wants that."""

    def sending(self, connection: Connection, size_bytes: int) -> AbstractContextManager[None]:
        """An answer of this size is in memory, until the block ends."""


class Connection(H11Protocol):
    """A connection that knows its stage, and since when it is at it.

    Parameters
    ----------
    table
        All connections of the server.
    arguments
        uvicorn's.

    Attributes
    ----------
    stage
        As :meth:`look` found it last.
    since
        When the stage began, in seconds of the event loop's clock. A head begins with the
        connection or, behind an answer, with its first byte.
    """

    def __init__(self, table: Table, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.conn = _Parser(h11.SERVER, _HEAD_BYTES)
        # Requests find their connection in their state.
        self.app_state = {**self.app_state, "connection": self}
        self._table = table
        self._refused = False
        self.stage, self.since = Stage.HEAD, self.loop.time()

    def _stage(self) -> Stage:
        if self.transport.is_closing():
            return Stage.CLOSING
        if self.flow.write_paused:
            return Stage.ANSWER
        if self.cycle is not None and not self.cycle.response_complete:
            return Stage.REFUSED if self._refused else Stage.WORK
        if self.conn.their_state is h11.SEND_BODY:
            return Stage.REST
        return Stage.HEAD if self.cycle is None or self.conn.trailing_data[0] else Stage.IDLE

    def look(self) -> None:
        """Find out the stage; whatever may have changed it calls this."""
        stage = self._stage()
        if stage is not self.stage:
            self.stage, self.since = stage, self.loop.time()
            self._table.moved(self)

    def refused(self) -> None:
        """What follows of the request is only read so that the client gets its answer."""
        self._refused = True
        self.look()

    def sending(self, size_bytes: int) -> AbstractContextManager[None]:
        """An answer of this size is in memory, until the block ends."""
        return self._table.sending(self, size_bytes)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for it."""
        super().connection_made(transport)
        # With anything unsent, writing is paused: so it is known when an answer has left.
        # asyncio pauses above this, and over TLS from it on.
        encrypted = transport.get_extra_info("sslcontext") is not None
        transport.set_write_buffer_limits(high=int(encrypted), low=0)
        transport.max_size = _RECEIVE_BYTES  # type: ignore[attr-defined]  # asyncio's: 256 KiB
        self._table.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self._table.remove(self)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        super().data_received(data)
        self.look()

    def on_response_complete(self) -> None:
        """An answer has been given; the next request may be there already."""
        self._refused = False
        super().on_response_complete()
        self.look()

    def pause_writing(self) -> None:
        """Something of an answer has not left."""
        super().pause_writing()
        self.look()

    def resume_writing(self) -> None:
        """All has left."""
        super().resume_writing()
        self.look()

    def timeout_keep_alive_handler(self) -> None:
        """uvicorn's timer between requests has run out."""
        if not self.transport.is_closing():
            self._table.closed("idle")
            self.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, unless an answer is on its way already."""
        self._table.closed("malformed")
        self.refuse(400, "the request is not valid HTTP/1.1, or its chunks are tiny")

    def shutdown(self) -> None:
        """Close it if nothing is being done for it, else behind the answer."""
        if self.cycle is None or self.cycle.response_complete:
            self.close()
        else:
            self.cycle.keep_alive = False

    def refuse(self, status: int, message: str) -> None:
        """Answer in place of the application, if that is still possible, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            body = json.dumps({"error": message}).encode()
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            reason = HTTPStatus(status).phrase
            events = [
                h11.Response(status_code=status, headers=headers, reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ]
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.close()

    def _end(self) -> None:
        """Let the application hear that nobody listens; what it says is dropped."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._unset_keepalive_if_required()

    def close(self) -> None:
        """Close when everything written has left."""
        self._end()
        self.transport.close()
        self.look()

    def abort(self) -> None:
        """Close at once, and drop what has not left."""
        self._end()
        self.transport.abort()
        self.look()
