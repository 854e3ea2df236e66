"""A register stage for streams that cuts the valid, the payload and the ready path."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.hdl import Shape, ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class SkidBuffer(wiring.Component):
    """Two words of storage, one word per cycle, latency 1 cycle, nothing combinational through it.

    The words are filled and emptied in turns. Which one is filled next is a register, so ``ready``
    at the output reaches a few bits of control and no word, however wide.

    Parameters
    ----------
    shape
        Shape of the payload.

    Attributes
    ----------
    i, o
        Input and output stream. ``i.ready`` and ``o.valid`` are registers, ``o.payload`` is one
        of two.
    flush
        Forget what is stored; words accepted in the same cycle are lost too.
    """

    def __init__(self, shape: ShapeLike) -> None:
        self.shape = shape
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "flush": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = Shape.cast(self.shape).width
        words = [Signal(bits, name=f"word_{n}", reset_less=True) for n in range(2)]
        # Which word the next one goes to, none if both are full; which one leaves next.
        filled_next, oldest = Signal(2, init=0b01), Signal()
        free, some = Signal(init=1), Signal()
        put, take, turn, following = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(free),
            self.o.valid.eq(some),
            Cat(self.o.payload).eq(Mux(oldest, words[1], words[0])),
            put.eq(self.i.valid & free),
            take.eq(self.o.ready & some),
            # Where the next word goes, now and from the next cycle on.
            turn.eq(oldest ^ (some & free)),
            following.eq(turn ^ put),
        ]
        for n, word in enumerate(words):
            # What is there while nothing is offered does no harm.
            with m.If(filled_next[n]):
                m.d.sync += word.eq(Cat(self.i.payload))
        # Every bit is a function of its own, so that none is a step behind another.
        still_free = Mux(free, ~(put & some & ~take), take)
        m.d.sync += [
            oldest.eq(oldest ^ take),
            some.eq(put | (some & ~(take & free))),
            free.eq(still_free),
            filled_next.eq(Mux(still_free, Cat(~following, following), 0)),
        ]
        with m.If(self.flush):
            m.d.sync += [some.eq(0), free.eq(1), oldest.eq(0), filled_next.eq(0b01)]
        return m
