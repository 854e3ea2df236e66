"""Streams between words of different width, little endian."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.tree import select


def _ratio(wide: int, narrow: int) -> int:
    if narrow < 1 or wide % narrow:
        raise ValueError(f"wide must be a multiple of narrow {narrow}, not {wide!r}")
    return wide // narrow


class Widen(wiring.Component):
    """Assembles words of ``wide`` bits from words of ``narrow`` bits, the lowest first.

    One narrow word per cycle without gaps. The first parts of a word wait in registers; with the
    last one the word is offered in the same cycle, and that part stays where it comes from until
    the word is taken: a buffer belongs behind it.

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
        # A part is loaded as long as its turn lasts. With the last of these loads it is taken, so
        # that no bit hangs on whether it is.
        turn = Signal(self.ratio, init=1)
        early = []
        for n in range(self.ratio - 1):
            part = Signal.like(self.i.payload, name=f"part_{n}", reset_less=True)
            with m.If(turn[n]):
                m.d.sync += part.eq(self.i.payload)
            early.append(part)
        m.d.comb += [
            self.o.valid.eq(self.i.valid & turn[-1]),
            self.o.payload.eq(Cat(*early, self.i.payload)),
            self.i.ready.eq(~turn[-1] | self.o.ready),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += turn.eq(turn.rotate_left(1))
        return m


class Narrow(wiring.Component):
    """Takes words of ``wide`` bits apart into words of ``narrow`` bits, the lowest first.

    One narrow word per cycle without gaps, the first one the cycle after its wide word. A wide
    word has a power of two of narrow ones.

    Attributes
    ----------
    i, o
        Input and output stream.
    """

    def __init__(self, wide: int, narrow: int) -> None:
        self.ratio = _ratio(wide, narrow)
        if self.ratio & (self.ratio - 1):
            raise ValueError(f"wide must be a power of two of words of {narrow}, not {wide!r}")
        super().__init__({"i": In(stream.Signature(wide)), "o": Out(stream.Signature(narrow))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = len(self.o.payload)
        word = Signal.like(self.i.payload, reset_less=True)
        part = Signal(range(self.ratio)) if self.ratio > 1 else Const(0, 1)
        some, last = Signal(), Signal() if self.ratio > 1 else Const(1)
        empty = Signal(init=1)  # the inverse of `some`, for all of the word hangs on it
        leave, refill = Signal(), Signal()
        # A select of few bits for each bit that leaves, rather than a shift of all that stay.
        parts = [word.word_select(n, bits) for n in range(self.ratio)]
        m.d.comb += [
            self.o.valid.eq(some),
            self.o.payload.eq(select(part, parts)),
            leave.eq(some & self.o.ready),
            refill.eq(~some | (last & self.o.ready)),
            self.i.ready.eq(refill),
        ]
        m.d.sync += [
            some.eq(Mux(refill, self.i.valid, 1)),
            empty.eq(refill & ~self.i.valid),
        ]
        if self.ratio > 1:
            with m.If(leave):
                m.d.sync += [part.eq(part + 1), last.eq(part == self.ratio - 2)]
        # What is there while no word is offered does no harm.
        with m.If(empty | (last & self.o.ready)):
            m.d.sync += word.eq(self.i.payload)
        return m
