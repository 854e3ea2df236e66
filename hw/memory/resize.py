"""Streams between words of different width, little endian."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


def _ratio(wide: int, narrow: int) -> int:
    if narrow < 1 or wide % narrow:
        raise ValueError(f"wide must be a multiple of narrow {narrow}, not {wide!r}")
    return wide // narrow


class Widen(wiring.Component):
    """Assembles words of ``wide`` bits from words of ``narrow`` bits, the lowest first.

    One narrow word per cycle without gaps; a wide word is there the cycle after its last part.

    Attributes
    ----------
    i, o
        Input and output stream.
    """

    def __init__(self, narrow: int, wide: int) -> None:
        self.ratio = _ratio(wide, narrow)
        super().__init__({"i": In(stream.Signature(narrow)), "o": Out(stream.Signature(wide))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        parts = Signal(range(self.ratio + 1))
        word = Signal.like(self.o.payload, reset_less=True)
        m.d.comb += [
            self.o.valid.eq(parts == self.ratio),
            self.o.payload.eq(word),
            self.i.ready.eq(~self.o.valid | self.o.ready),
        ]
        with m.If(self.i.valid & self.i.ready):
            # Parts move down from the top: after `ratio` of them the first one is at the bottom.
            m.d.sync += word.eq(Cat(word, self.i.payload)[len(self.i.payload) :])
            with m.If(self.o.valid):
                m.d.sync += parts.eq(1)
            with m.Else():
                m.d.sync += parts.eq(parts + 1)
        with m.Elif(self.o.ready & self.o.valid):
            m.d.sync += parts.eq(0)
        return m


class Narrow(wiring.Component):
    """Takes words of ``wide`` bits apart into words of ``narrow`` bits, the lowest first.

    One narrow word per cycle without gaps, the first one the cycle after its wide word.

    Attributes
    ----------
    i, o
        Input and output stream.
    """

    def __init__(self, wide: int, narrow: int) -> None:
        self.ratio = _ratio(wide, narrow)
        super().__init__({"i": In(stream.Signature(wide)), "o": Out(stream.Signature(narrow))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        parts = Signal(range(self.ratio + 1))
        word = Signal.like(self.i.payload, reset_less=True)
        m.d.comb += [
            self.o.valid.eq(parts != 0),
            self.o.payload.eq(word),
            self.i.ready.eq((parts == 0) | ((parts == 1) & self.o.ready)),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += parts.eq(self.ratio)
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += parts.eq(parts - 1)
        # What is there while no word is offered does no harm.
        with m.If(~self.o.valid | self.o.ready):
            rest = word >> len(self.o.payload)
            none_left = parts <= 1 if self.ratio > 1 else Const(1)
            m.d.sync += word.eq(Mux(none_left, self.i.payload, rest))
        return m
