"""The rank of every key among all: how many others come before it."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out


class Ranks(wiring.Component):
    """Compares every pair of ``slots`` keys once and counts for each key how many beat it.

    A larger key comes first (unsigned); among equals the one of the lower index. Keys that are not
    enabled beat nobody. Comparing all pairs makes ranks independent of one another: to choose the
    n-th key is a comparison of its rank, where a search for the maximum would wait for the choice
    before.

    A copy of the keys moves round past the keys: in a cycle each key meets those that are
    ``distances`` distances above it, until all up to half way round have passed. Whoever loses
    counts, the key in its place or the one that passes, whose count moves along. Half way round
    both keys of a pair meet the other: then the one that passes does not count.

    Parameters
    ----------
    slots, bits, distances
        Keys, bits per key, distances per cycle; ``distances`` divides ``slots / 2``.

    Attributes
    ----------
    load, next_keys
        In the next cycle the comparison of these begins; it takes ``slots / 2 / distances``.
    keys
        The keys under comparison: ``next_keys`` of the last ``load``.
    enabled
        Which keys exist.
    rank
        Of each key, ``LATENCY`` cycles after the last cycle of its comparison; for one cycle.
    """

    LATENCY = 3

    def __init__(self, slots: int, bits: int, distances: int) -> None:
        if slots // 2 % distances:
            raise ValueError(f"distances must divide half of slots {slots}, not {distances!r}")
        self.slots, self.bits, self.distances = slots, bits, distances
        self.cycles = slots // 2 // distances
        super().__init__(
            {
                "load": In(1),
                "next_keys": In(slots * bits),
                "keys": In(slots * bits),
                "enabled": In(slots),
                "rank": Out(data.ArrayLayout(range(slots), slots)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slots, bits, distances = self.slots, self.bits, self.distances
        # Place p has the key that is 1 above p, then ``distances`` more; ``past``: and went round.
        moving = Signal(slots * bits, reset_less=True)
        present, past = Signal(slots, reset_less=True), Signal(slots, reset_less=True)
        turn = Signal(self.cycles)
        with m.If(self.load):
            m.d.sync += [
                moving.eq(self.next_keys.rotate_right(bits)),
                present.eq(self.enabled.rotate_right(1)),
                past.eq(1 << slots - 1),
                turn.eq(1),
            ]
        with m.Else():
            m.d.sync += [
                moving.eq(moving.rotate_right(distances * bits)),
                present.eq(present.rotate_right(distances)),
                past.eq(Cat(past[distances:], Const(-1, distances))),
                turn.eq(turn << 1),
            ]
        begun = Signal()
        m.d.sync += begun.eq(turn[0])

        # One register follows a comparison, one a count, one the sum of both counts.
        loses = [Signal(distances, name=f"loses_{e}", reset_less=True) for e in range(slots)]
        beats = [Signal(distances, name=f"beats_{e}", reset_less=True) for e in range(slots)]
        for e in range(slots):
            key = Cat(Const(0, 1), self.keys.word_select(e, bits))
            for lane in range(distances):
                place = (e + lane) % slots
                # Among equals the lower index: one more bit behind the keys decides.
                lower = past[place] if e + lane < slots else 1
                other = Cat(lower, moving.word_select(place, bits))
                half_way = turn[-1] if lane == distances - 1 else 0
                wins = Signal(name=f"wins_{e}_{lane}")
                m.d.comb += wins.eq(other > key)
                m.d.sync += [
                    loses[e][lane].eq(present[place] & wins),
                    beats[e][lane].eq(self.enabled[e] & ~wins & ~half_way),
                ]
        lost = [
            Signal(range(slots // 2 + 1), name=f"lost_{e}", reset_less=True) for e in range(slots)
        ]
        moved = [
            Signal(range(slots // 2), name=f"moved_{e}", reset_less=True) for e in range(slots)
        ]
        for e in range(slots):
            from_above = moved[(e + distances) % slots]
            here = [beats[(e - lane) % slots][lane] for lane in range(distances)]
            m.d.sync += [
                lost[e].eq(Mux(begun, 0, lost[e]) + sum(loses[e][1:], start=loses[e][0])),
                moved[e].eq(Mux(begun, 0, from_above) + sum(here[1:], start=here[0])),
                self.rank[e].eq(lost[e] + moved[(e - 1 - (self.cycles - 1) * distances) % slots]),
            ]
        return m
