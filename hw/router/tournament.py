"""The largest of many keys and where it is, as shallow combinational logic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth import Cat, Const, Module, Signal, Value


@dataclass(frozen=True)
class Winner:
    """A key and its index."""

    key: Value
    index: Value


def _largest_of_group(m: Module, group: Sequence[Winner], name: str) -> Winner:
    """All pairs are compared at once: one comparison deep whatever the size of the group."""
    size = len(group)
    beats: dict[tuple[int, int], Value] = {}
    for low in range(size):
        for high in range(low + 1, size):
            # Ties go to the lower index.
            beat = Signal(name=f"{name}_{low}_beats_{high}")
            m.d.comb += beat.eq(group[low].key >= group[high].key)
            beats[low, high], beats[high, low] = beat, ~beat
    best = [Cat(beats[i, other] for other in range(size) if other != i).all() for i in range(size)]
    key = Signal(len(group[0].key), name=f"{name}_key")
    bits = (size - 1).bit_length()
    index = Signal(len(group[0].index) + bits, name=f"{name}_index")
    for i, candidate in enumerate(group):
        with m.If(best[i]):
            m.d.comb += [
                key.eq(candidate.key),
                index.eq(Cat(candidate.index, Const(i, bits))),
            ]
    return Winner(key, index)


def tournament(m: Module, keys: Sequence[Value], name: str) -> Winner:
    """The largest of ``keys`` (unsigned, equally wide); among equals the one of lowest index.

    No register. Groups of four, so 16 keys take two comparisons one after the other and 64 take
    three. ``keys`` must be a power of two, at least 2, in number.
    """
    count = len(keys)
    if count < 2 or count & (count - 1):
        raise ValueError(f"number of keys must be a power of two above 1, not {count!r}")
    winners = [Winner(key, Signal(0)) for key in keys]
    level = 0
    while len(winners) > 1:
        size = 4 if len(winners) % 4 == 0 else 2
        winners = [
            _largest_of_group(m, winners[start : start + size], f"{name}{level}_{start // size}")
            for start in range(0, len(winners), size)
        ]
        level += 1
    return winners[0]
