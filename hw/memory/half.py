"""A register stage for streams whose words come rarely."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.hdl import ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class HalfBuffer(wiring.Component):
    """One word of storage, a word every other cycle, latency 1 cycle; nothing passes at once.

    Half the registers of a :class:`~moesaic.hw.memory.skid.SkidBuffer`, and no multiplexer.

    Parameters
    ----------
    shape
        Shape of the payload.

    Attributes
    ----------
    i, o
        Input and output stream.
    """

    def __init__(self, shape: ShapeLike) -> None:
        self.shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        free = Signal(init=1)  # the inverse of `o.valid`, for all of the payload hangs on it
        m.d.comb += self.i.ready.eq(~self.o.valid)
        with m.If(self.o.ready):
            m.d.sync += [self.o.valid.eq(0), free.eq(1)]
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(self.i.valid),
                self.o.payload.eq(self.i.payload),
                free.eq(~self.i.valid),
            ]
        return m
