"""Reads request bodies, none longer than allowed, compressed or not."""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from moesaic.host.serving.errors import ClientGone, RequestError

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
"""zlib finds out by the first bytes which of the two headers it is."""


class _Plain:
    """A body as it comes."""

    def __init__(self, limit_bytes: int) -> None:
        self.data, self._limit = bytearray(), limit_bytes

    def feed(self, chunk: bytes) -> None:
        if len(self.data) + len(chunk) > self._limit:
            raise _too_large(self._limit)
        self.data += chunk

    def finish(self) -> bytearray:
        return self.data


class _Deflated(_Plain):
    """A body with ``Content-Encoding`` gzip or deflate: it is what it unpacks to that counts."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self._unpack = zlib.decompressobj(_GZIP_OR_ZLIB)

    def feed(self, chunk: bytes) -> None:
        # One byte more than fits tells a body that is too long; nothing behind it is unpacked.
        room = self._limit - len(self.data) + 1
        try:
            super().feed(self._unpack.decompress(chunk, room))
        except zlib.error as error:
            raise RequestError(400, f"the body is not compressed as declared: {error}") from error
        if self._unpack.unused_data:
            raise RequestError(400, "something follows the compressed body; send one stream")

    def finish(self) -> bytearray:
        if not self._unpack.eof:
            raise RequestError(400, "the compressed body is cut short")
        return self.data


def _too_large(limit_bytes: int, close: bool = True) -> RequestError:
    message = (
        f"the body exceeds {limit_bytes} bytes; send fewer frames, in binary form, or start the"
        " server with a larger --max-body"
    )
    return RequestError(413, message, close=close)


async def read_body(request: Request, limit_bytes: int, limit_seconds: float) -> bytearray:
    """The whole body, unpacked.

    Raises
    ------
    RequestError
        400: not compressed as declared. 408: it did not come in time. 413: longer than the limit.
        415: compressed otherwise.
    ClientGone
        The connection ended before.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise RequestError(
            415, f"Content-Encoding {encoding!r} is not supported; use gzip, deflate or none"
        )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit_bytes:
        # The client may send what it declared, and read the answer then: nothing of it is kept.
        raise _too_large(limit_bytes, close=False)
    request.state.body_begun = True
    body = _Plain(limit_bytes) if encoding == "identity" else _Deflated(limit_bytes)
    try:
        async with asyncio.timeout(limit_seconds):
            async for chunk in request.stream():
                if chunk:
                    body.feed(chunk)
    except TimeoutError as error:
        raise RequestError(
            408, f"the body did not arrive within {limit_seconds:g} s; send it again", close=True
        ) from error
    except ClientDisconnect as error:
        raise ClientGone(ran=False) from error
    return body.finish()


async def discard_body(request: Request, limit_bytes: int, limit_seconds: float) -> None:
    """Let a client that closes the connection after the answer finish sending first.

    A connection that is closed with bytes unread is reset, and the client may lose the answer. On
    one that stays open, the server skips an unread body by itself. Nothing is kept; a client that
    sends more, or takes longer, may lose its answer.
    """
    closes = "close" in request.headers.get("connection", "").lower()
    if getattr(request.state, "body_begun", False) or not closes:
        return
    room = limit_bytes
    try:
        async with asyncio.timeout(limit_seconds):
            async for chunk in request.stream():
                room -= len(chunk)
                if room < 0:
                    return
    except (TimeoutError, ClientDisconnect):
        pass
