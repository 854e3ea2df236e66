"""A register stage for streams whose producer decides a cycle ahead."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Shape, Signal
from amaranth.hdl import ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class CreditBuffer(wiring.Component):
    """Three words of storage, a word per cycle, latency 1 cycle, nothing combinational through it.

    The producer may put a word when ``room`` was up in the cycle before, so that whether it goes
    on can be a register of its own. What is taken in the meantime is not counted: that needs a
    word more than a :class:`~moesaic.hw.memory.skid.SkidBuffer` has.

    Parameters
    ----------
    shape
        Shape of the payload.

    Attributes
    ----------
    i, o
        Input and output stream. ``o.valid`` is a register, ``o.payload`` is one of three.
    room
        A word may be put in the next cycle.
    """

    def __init__(self, shape: ShapeLike) -> None:
        self.shape = shape
        super().__init__(
            {
                "i": In(stream.Signature(shape, always_ready=True)),
                "room": Out(1),
                "o": Out(stream.Signature(shape)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = Shape.cast(self.shape).width
        words = [Signal(bits, name=f"word_{n}", reset_less=True) for n in range(3)]
        filled_next, oldest = Signal(3, init=0b001), Signal(range(3))
        count, some = Signal(range(4)), Signal()
        put, take = self.i.valid, Signal()
        m.d.comb += [
            self.room.eq((count < 2) | ((count == 2) & ~put)),
            take.eq(self.o.ready & some),
            self.o.valid.eq(some),
            Cat(self.o.payload).eq(Mux(oldest[1], words[2], Mux(oldest[0], words[1], words[0]))),
        ]
        for n, word in enumerate(words):
            with m.If(filled_next[n] & put):
                m.d.sync += word.eq(Cat(self.i.payload))
        m.d.sync += [
            filled_next.eq(Mux(put, filled_next.rotate_left(1), filled_next)),
            oldest.eq(Mux(take, Mux(oldest[1], 0, oldest + 1), oldest)),
            count.eq(count + put - take),
            some.eq(put | (count > 1) | (some & ~take)),
        ]
        return m
