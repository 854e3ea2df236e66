"""A register stage for streams that cuts the valid, the payload and the ready path."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.hdl import ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class SkidBuffer(wiring.Component):
    """Two words of storage, one word per cycle, latency 1 cycle, every output from a register.

    Parameters
    ----------
    shape
        Shape of the payload.

    Attributes
    ----------
    i, o
        Input and output stream.
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
        spare = Signal(self.shape, reset_less=True)
        spare_valid = Signal()

        m.d.comb += self.i.ready.eq(~spare_valid)
        with m.If(self.o.ready | ~self.o.valid):
            m.d.sync += [self.o.valid.eq(spare_valid | self.i.valid), spare_valid.eq(0)]
            with m.If(spare_valid):
                m.d.sync += self.o.payload.eq(spare)
            with m.Else():
                m.d.sync += self.o.payload.eq(self.i.payload)
        with m.Elif(self.i.valid & ~spare_valid):
            m.d.sync += [spare.eq(self.i.payload), spare_valid.eq(1)]
        with m.If(self.flush):
            m.d.sync += [self.o.valid.eq(0), spare_valid.eq(0)]
        return m
