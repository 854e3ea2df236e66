"""Inference requests as bytes on the wire: valid ones, deviating ones, mutated ones."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from hypothesis import strategies as st

LENGTH = "Inference-Header-Content-Length"
BODY_LIMIT_BYTES = 1 << 20
"""Of the server that the requests are for."""


class Verdict(Enum):
    """What a server has to make of a request."""

    RIGHT = "answer it"
    REFUSED = "refuse it"
    EITHER = "one of the two"


@dataclass
class Parts:
    """A request before it is put together."""

    method: str = "POST"
    target: str = "/v2/models/seg/infer"
    version: str = "HTTP/1.1"
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("Host", "x")])
    message: dict[str, Any] = field(default_factory=dict)
    binary: bytes = b""
    text: bytes | None = None
    """Instead of ``message``."""
    packed: str = ""
    body: Callable[[bytes], bytes] = bytes
    """What becomes of the body when it is packed."""
    length: Callable[[int], str] | None = str
    chunks: list[int] | None = None
    """Sizes, over and over again; without, the body has a length."""
    chunk_head: str = "%x"

    @property
    def tensor(self) -> dict[str, Any]:
        return self.message["inputs"][0]

    def wire(self) -> bytes:
        """The bytes."""
        text = json.dumps(self.message).encode() if self.text is None else self.text
        headers = list(self.headers)
        if self.binary and LENGTH not in dict(headers):
            headers.append((LENGTH, str(len(text))))
        body = text + self.binary
        if self.packed:
            body = gzip.compress(body, 1) if self.packed == "gzip" else zlib.compress(body, 1)
            if "Content-Encoding" not in dict(headers):
                headers.append(("Content-Encoding", self.packed))
        body = self.body(body)
        if self.chunks is not None:
            headers.append(("Transfer-Encoding", "chunked"))
            pieces, at = [], 0
            while at < len(body):
                size = self.chunks[len(pieces) % len(self.chunks)]
                piece = body[at : at + size]
                pieces.append((self.chunk_head % len(piece)).encode() + b"\r\n" + piece + b"\r\n")
                at += size
            body = b"".join(pieces) + b"0\r\n\r\n"
        elif self.length is not None:
            headers.append(("Content-Length", self.length(len(body))))
        lines = [f"{self.method} {self.target} {self.version}"]
        lines += [f"{name}: {value}" for name, value in headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@st.composite
def valid(draw: st.DrawFn, shapes: dict[str, tuple[int, ...]]) -> Parts:
    """A request that must be answered; ``shapes`` are those of a frame, by task."""
    task = draw(st.sampled_from(sorted(shapes)))
    version = draw(st.sampled_from(["", "", "/versions/1"]))
    shape = (draw(st.integers(1, 3)), *shapes[task])
    x = np.random.default_rng(draw(st.integers(0, 7))).uniform(-2, 2, shape).astype(np.float32)
    parts = Parts(target=f"/v2/models/{task}{version}/infer")
    tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": list(shape)}
    form = draw(st.sampled_from(["flat", "nested", "binary", "binary"]))
    if form == "binary":
        tensor["parameters"] = {"binary_data_size": x.nbytes}
        parts.binary = x.tobytes()
    else:
        tensor["data"] = (x if form == "nested" else x.reshape(-1)).tolist()
    parts.message = {"inputs": [tensor]}
    if draw(st.booleans()):
        parts.message["id"] = draw(st.text(max_size=5))
    if draw(st.booleans()):
        parts.message["parameters"] = {"binary_data_output": draw(st.booleans())}
    if draw(st.booleans()):
        parts.message["outputs"] = [
            {"name": "y", "parameters": {"binary_data": draw(st.booleans())}}
        ]
    parts.packed = draw(st.sampled_from(["", "", "gzip", "deflate"]))
    if draw(st.booleans()):
        parts.chunks = draw(st.lists(st.integers(1, 4000), min_size=1, max_size=3))
        parts.chunks[0] = max(parts.chunks[0], 64)  # not thousands of them
        parts.chunk_head = draw(st.sampled_from(["%x", "%X", "0%x", "%x;name=value"]))
    parts.headers += draw(
        st.lists(
            st.sampled_from(
                [("X-Of", "\xe4 \t!"), ("Connection", "close"), ("connection", "keep-alive")]
                + [("X-Empty", ""), ("Cookie", "a=b"), ("Expect", "100-continue"), ("TE", "gzip")]
            ),
            max_size=2,
            unique_by=lambda header: header[0].lower(),
        )
    )
    return parts


def _one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def _first(parts: Parts, **fields: Any) -> None:
    parts.tensor.update(fields)


def _numbers(parts: Parts, value: Any) -> None:
    """Put something among the numbers, or into their bytes."""
    if parts.binary:
        bits = np.float32(np.inf if value == 1e39 else np.nan)
        parts.binary = bits.tobytes() + parts.binary[4:]
    else:
        parts.tensor["data"] = [value, *np.ravel(parts.tensor["data"]).tolist()[1:]]


def _sizes(parts: Parts, change: int) -> None:
    """Declare more or fewer numbers than there are."""
    if parts.binary:
        size = parts.tensor["parameters"]["binary_data_size"]
        parts.tensor["parameters"] = {"binary_data_size": size + change}
    else:
        data = np.ravel(parts.tensor["data"]).tolist()
        parts.tensor["data"] = data[:change] if change < 0 else data + [0.0] * change


def _set(name: str) -> Callable[[Parts, Any], None]:
    return lambda parts, value: setattr(parts, name, value)


def _header(parts: Parts, header: tuple[str, str]) -> None:
    parts.headers.append(header)


def _length(parts: Parts, length: Callable[[int], str]) -> None:
    parts.length, parts.chunks = length, None


_BOMB = gzip.compress(bytes(8 * BODY_LIMIT_BYTES), mtime=0)

Change = Callable[[Parts, Any], None]
REFUSED: dict[str, tuple[st.SearchStrategy[Any], Change]] = {
    "datatype": (
        _one_of("INT8", "FP64", "fp32", None, 7, ["FP32"]),
        lambda p, v: _first(p, datatype=v),
    ),
    "name": (_one_of("image", "", None, 7, "x\x00", "X"), lambda p, v: _first(p, name=v)),
    "shape": (
        _one_of([], [0, 160], [-1, 160], [2**63, 160], [1, 7], "1x160", [1.0, 160], [True, 160], 3),
        lambda p, v: _first(p, shape=v),
    ),
    "twice": (st.none(), lambda p, v: p.message.update(inputs=p.message["inputs"] * 2)),
    "inputs": (_one_of(None, {}, [], 7, ["x"], [[]]), lambda p, v: p.message.update(inputs=v)),
    "number": (
        _one_of("0.5", None, True, {}, [], 1e39, 10**400, float("nan"), float("-inf")),
        _numbers,
    ),
    "sizes": (_one_of(-4, -1, 1, 4, 10**6), _sizes),
    "id": (_one_of(7, [], {}, False), lambda p, v: p.message.update(id=v)),
    "outputs": (
        _one_of("y", {}, [7], [{}], [{"name": "z"}], [{"name": "y"}] * 2),
        lambda p, v: p.message.update(outputs=v),
    ),
    "parameters": (
        _one_of([], 7, {"binary_data_output": 1}, {"shared_memory_region": "r"}),
        lambda p, v: p.message.update(parameters=v),
    ),
    "JSON": (
        _one_of(b"", b"{", b"\xff", b"[]", b"[" * 200_000, b'{"a":' * 50_000, b"9" * 9000, b"\x00"),
        _set("text"),
    ),
    "header length": (
        _one_of("-1", "1.5", "", "0", "9" * 30, "1_0", "\xb2", "0x10", "1 1"),
        lambda p, v: _header(p, (LENGTH, v)),
    ),
    "encoding": (
        _one_of("br", "gzip, gzip", "identity;q=1", "x" * 100),
        lambda p, v: _header(p, ("Content-Encoding", v)),
    ),
    "not packed": (
        st.none(),
        lambda p, v: (_set("packed")(p, ""), _header(p, ("Content-Encoding", "gzip")))[0],
    ),
    "packed badly": (
        _one_of(lambda b: b[:-1], lambda b: b + b"x", lambda b: b[:9], lambda b: b""),
        lambda p, v: (_set("packed")(p, "gzip"), _set("body")(p, v))[0],
    ),
    "bomb": (
        st.none(),
        lambda p, v: (_set("packed")(p, "gzip"), _set("body")(p, lambda b: _BOMB))[0],
    ),
    "too long": (st.integers(1, 99), lambda p, v: _set("text")(p, b" " * (BODY_LIMIT_BYTES + v))),
    "length": (
        _one_of("abc", "-1", "1e3", "", "0x10", "9" * 18, "9" * 25, "1, 2", "+5", "\xb2"),
        lambda p, v: _length(p, lambda n: v),
    ),
    "length that lies": (_one_of(-9, -1, 1, 9), lambda p, v: _length(p, lambda n: str(n + v))),
    "two lengths": (
        st.none(),
        lambda p, v: (_length(p, str), _header(p, ("Content-Length", "1")))[0],
    ),
    "transfer encoding": (
        _one_of("gzip, chunked", "identity", "xchunked", "chunked, chunked"),
        lambda p, v: (_length(p, str), _header(p, ("Transfer-Encoding", v)))[0],
    ),
    "chunk": (
        _one_of("z%x", "-%x", "%x0123456789abcdef0123456789", " %x", "%x\n"),
        lambda p, v: (_set("chunks")(p, [512]), _set("chunk_head")(p, v))[0],
    ),
    "tiny chunks": (
        st.integers(1, 9),
        lambda p, v: (_set("chunks")(p, [v]), _set("text")(p, bytes(20_000)))[0],
    ),
    "host": (_one_of([], [("Host", "x"), ("Host", "y")]), _set("headers")),
    "header": (
        _one_of(
            ("A b", "c"),
            ("", "c"),
            ("A", "b\x00c"),
            ("A", "b\rc"),
            ("\xe4", "c"),
        ),
        _header,
    ),
    "method": (
        _one_of(
            "GET", "HEAD", "PUT", "post", "DELETE", "OPTIONS", "TRACE", "CONNECT", "P\x00ST", ""
        ),
        _set("method"),
    ),
    "target": (
        st.sampled_from(
            [
                "/v2/models/night/infer",
                "/v2/models/seg/versions/2/infer",
                "/v2/models/a/../seg/infer",
            ]
            + [
                "/%00",
                "//",
                "*",
                "/" + "a" * 3000,
                "/v2/models/%ff%fe/infer",
                "/v2/models/seg/inf er",
            ]
            + ["/v2/models//infer", "http://x/v2", "\xe4", ""]
        ),
        _set("target"),
    ),
}
"""Deviations that a server must refuse: what there is to choose from, and how it is put in."""

EITHER: dict[str, tuple[st.SearchStrategy[Any], Change]] = {
    "unknown field": (
        _one_of(None, 1e999, [[]], 2**70, "\ud800", {"": {}}),
        lambda p, v: p.message.update(unknown=v),
    ),
    "deep field": (
        st.integers(1, 3000),
        lambda p, v: _set("text")(
            p, json.dumps(p.message).encode()[:-1] + b', "deep": ' + b"[" * v + b"]" * v + b"}"
        ),
    ),
    "injection": (
        _one_of("b\r\nContent-Length: 0", "b\nX: y", "b\r\n\r\n", "b\r\n folded", "b\r\nHost: z"),
        lambda p, v: p.headers.insert(0, ("A", v)),
    ),
    "length and chunks": (
        st.none(),
        lambda p, v: (_set("chunks")(p, [512]), _header(p, ("Content-Length", "3")))[0],
    ),
    "version": (
        _one_of("HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "http/1.1", ""),
        _set("version"),
    ),
    "upgrade": (
        _one_of("websocket", "h2c", "\xe4"),
        lambda p, v: p.headers.extend([("Connection", "upgrade"), ("Upgrade", v)]),
    ),
    "spelling": (
        st.sampled_from(
            ["/v2/models/seg%2finfer", "/v2/models/%73eg/infer", "/v2/models/seg/infer?a=%ff"]
            + ["/v2/models/seg/infer/", "/v2/models/seg/infer#a", "http://x/v2/models/seg/infer"]
        ),
        _set("target"),
    ),
    "long head": (st.integers(14_000, 300_000), lambda p, v: _header(p, ("A", "b" * v))),
    "expectation": (st.just("nonsense"), lambda p, v: _header(p, ("Expect", v))),
    "no length": (st.none(), lambda p, v: (_length(p, str), _set("length")(p, None))[0]),
}
"""Deviations that some servers take and some do not."""


@dataclass(frozen=True)
class Sent:
    """What goes over the wire, what has to become of it, and whether the client then closes."""

    wire: bytes
    verdict: Verdict
    kind: str
    closes: bool = False


def _mutated(draw: st.DrawFn, wire: bytes) -> bytes:
    data = bytearray(wire)
    head = max(1, wire.find(b"\r\n\r\n"))
    for _ in range(draw(st.integers(1, 3))):
        # The head is short, and where most of the meaning is.
        at = draw(st.integers(0, head) | st.integers(0, max(0, len(data) - 1)))
        many = draw(st.sampled_from([1, 1, 2, 9, 200]))
        match draw(st.sampled_from(["set", "insert", "delete", "repeat"])):
            case "set":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=4)) * many
            case "delete":
                del data[at : at + many]
            case "repeat":
                data[at:at] = data[at : at + many] * draw(st.integers(1, 3))
    return bytes(data)


KINDS = {"valid": 60, **dict.fromkeys([*REFUSED, *EITHER], 10), "mutated": 160, "cut": 60}
"""Kinds of requests, and how many of each make a round."""


@st.composite
def requests(draw: st.DrawFn, shapes: dict[str, tuple[int, ...]], kind: str) -> Sent:
    """A request of a kind, with what has to become of it."""
    parts = draw(valid(shapes))
    if kind in REFUSED:
        values, change = REFUSED[kind]
        if kind == "header length" and not parts.binary:
            parts.binary = bytes(4)  # else there is nothing behind the JSON that a length could cut
        change(parts, draw(values))
        return Sent(parts.wire(), Verdict.REFUSED, kind)
    if kind in EITHER:
        values, change = EITHER[kind]
        change(parts, draw(values))
        return Sent(parts.wire(), Verdict.EITHER, kind)
    wire = parts.wire()
    if kind == "mutated":
        return Sent(_mutated(draw, wire), Verdict.EITHER, kind)
    if kind == "cut":
        cut = wire[: draw(st.integers(0, len(wire) - 1))]
        # A client that waits has to be told; that takes the server's time-out.
        return Sent(cut, Verdict.REFUSED, kind, closes=draw(st.integers(0, 9)) > 0)
    return Sent(wire, Verdict.RIGHT, kind)
