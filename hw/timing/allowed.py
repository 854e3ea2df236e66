"""Feed-throughs that the gateware has today, with the reason of each: the list only shrinks.

``#`` stands for a number. A target that has one that is not here breaks the rule; one that is here
and in no target any more is to be taken out (``tests/hw/test_feedthrough.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_BY_REASON: dict[str, tuple[str, ...]] = {
    "counted behind a register of the control unit, and nothing waits for it": (
        "matrix: ring__valid -> discard",
        "router: control__granted -> control__wait_token",
        "router: logits__valid -> control__stalled",
        "router: logits__valid -> control__working",
        "store: axi#__wready -> control__stalled",
        "store: axi#__wready -> control__working",
        "store: control__granted -> control__wait_token",
        "stream: abort -> experts_fetched",
        "stream: abort -> experts_skipped",
        "stream: control__granted -> control__stalled",
        "stream: control__granted -> control__wait_token",
        "stream: control__granted -> experts_fetched",
        "stream: control__granted -> experts_skipped",
        "stream: control__granted -> stream_wait_ring",
        "stream: control__granted -> stream_wait_routing",
        "stream: discard -> weight_unused_bytes",
        "vector: accumulators__full -> control__stalled",
        "vector: accumulators__full -> control__working",
        "vector: accumulators__full -> vector_wait_bank",
        "vector: accumulators__full -> vector_wait_output",
        "vector: accumulators__full -> vector_wait_parameters",
        "vector: accumulators__full -> vector_wait_scale",
        "vector: control__granted -> control__wait_token",
    ),
    "a register of the token counters takes it: what is granted has left them already": (
        "load: control__granted -> control__take",
        "matrix: control__granted -> control__take",
        "router: control__granted -> control__take",
        "store: control__granted -> control__take",
        "stream: abort -> control__take",
        "stream: control__granted -> control__take",
        "vector: control__granted -> control__take",
    ),
    "a unit whose instruction is just coming must not look idle": (
        "matrix: control__queue__valid -> control__busy",
        "router: control__queue__valid -> control__busy",
        "stream: control__queue__valid -> control__busy",
    ),
    "of two ports that want a bank the first is served, in the cycle of the request": (
        "scratchpad: read0__address -> read1__ready",
        "scratchpad: read0__valid -> read1__ready",
        "scratchpad: read1__address -> read1__ready",
        "scratchpad: write0__address -> write1__ready",
        "scratchpad: write0__valid -> write1__ready",
        "scratchpad: write1__address -> write1__ready",
    ),
    "beats of the data port go through to their owner, whose registers take them": (
        "arbiter: axi__rdata -> master0__rdata",
        "arbiter: axi__rdata -> master1__rdata",
        "arbiter: axi__rlast -> master0__rlast",
        "arbiter: axi__rlast -> master1__rlast",
        "arbiter: axi__rresp -> master0__rresp",
        "arbiter: axi__rresp -> master1__rresp",
        "arbiter: axi__rvalid -> master0__rvalid",
        "arbiter: axi__rvalid -> master1__rvalid",
        "arbiter: master0__rready -> axi__rready",
        "arbiter: master1__rready -> axi__rready",
    ),
    "parameters come out of the tiles' ring: wires behind the stream unit's skid buffer": (
        "matrix: parameters__ready -> ring__ready",
        "matrix: ring__payload -> parameters__payload",
        "matrix: ring__valid -> parameters__valid",
    ),
    "a bank of accumulators is released in the cycle of its last read": (
        "vector: accumulators__full -> accumulators__release",
    ),
}

ALLOWED = {name: reason for reason, names in _BY_REASON.items() for name in names}
"""The reason of every feed-through, by its name: ``unit: input -> output``."""


def _matches(entry: str, name: str) -> bool:
    return re.fullmatch(re.escape(entry).replace(r"\#", r"\d+"), name) is not None


def unlisted(found: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """Names of feed-throughs that no entry allows."""
    entries = list(allowed)
    return [name for name in found if not any(_matches(entry, name) for entry in entries)]


def gone(found: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """Entries that allow none of these."""
    names = list(found)
    return [entry for entry in allowed if not any(_matches(entry, name) for name in names)]
