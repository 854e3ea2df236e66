"""The rank of every key among all: how many others come before it."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out


class Ranks(wiring.Component):
    """Compares ``lanes`` keys per cycle with all ``slots`` and counts for each how many beat it.

    A larger key comes first (unsigned); among equals the one of the lower index. Keys that are not
    enabled beat nobody. Comparing all pairs makes ranks independent of one another: to choose the
    n-th key is a comparison of its rank, where a search for the maximum would wait for the choice
    before. One register follows a comparison, a count, and a sum.

    Parameters
    ----------
    slots, bits, lanes
        Keys, bits per key, keys compared per cycle; ``lanes`` divides ``slots``.

    Attributes
    ----------
    load, next_keys
        In the next cycle the comparison of these begins.
    keys
        The keys under comparison: ``next_keys`` of the last ``load``.
    enabled
        Which keys exist.
    first
        First cycle of a comparison.
    rank
        Of each key, ``LATENCY`` cycles after the cycle in which the last enabled lanes were
        compared; until the next comparison's first result.
    """

    LATENCY = 3

    def __init__(self, slots: int, bits: int, lanes: int) -> None:
        if slots % lanes:
            raise ValueError(f"lanes must divide slots {slots}, not {lanes!r}")
        self.slots, self.bits, self.lanes = slots, bits, lanes
        super().__init__(
            {
                "load": In(1),
                "next_keys": In(slots * bits),
                "keys": In(slots * bits),
                "enabled": In(slots),
                "first": In(1),
                "rank": Out(data.ArrayLayout(range(slots), slots)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slots, bits, lanes = self.slots, self.bits, self.lanes
        challengers = Signal(slots * bits, reset_less=True)
        present = Signal(slots, reset_less=True)
        # Bit e of ``below``: the challengers' indices are all below that of key e's lanes.
        below = Signal(slots // lanes, reset_less=True)
        level = Signal(slots // lanes, reset_less=True)
        with m.If(self.load):
            m.d.sync += [
                challengers.eq(self.next_keys),
                present.eq(self.enabled),
                level.eq(1),
                below.eq(~1),
            ]
        with m.Else():
            m.d.sync += [
                challengers.eq(challengers >> lanes * bits),
                present.eq(present >> lanes),
                level.eq(level << 1),
                below.eq(below << 1),
            ]
        first = Signal(2)
        m.d.sync += first.eq(Cat(self.first, first))
        for e in range(slots):
            key = self.keys.word_select(e, bits)
            beats = Signal(lanes, name=f"beats_{e}", reset_less=True)
            count = Signal(range(lanes + 1), name=f"count_{e}", reset_less=True)
            group, place = divmod(e, lanes)
            for lane in range(lanes):
                # Among equals the lower index: one more bit behind the keys decides.
                wins_tie = below[group] | (level[group] if lane < place else 0)
                challenger = Cat(wins_tie, challengers.word_select(lane, bits))
                m.d.sync += beats[lane].eq(present[lane] & (challenger > Cat(Const(0, 1), key)))
            m.d.sync += [
                count.eq(sum(beats[1:], start=beats[0])),
                self.rank[e].eq(Mux(first[1], 0, self.rank[e]) + count),
            ]
        return m
