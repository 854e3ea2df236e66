"""First-in first-out queue of a few words in LUT RAM, a stream at either end."""

from __future__ import annotations

from amaranth import Cat, Module, Shape
from amaranth.hdl import ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.memory.skid import SkidBuffer


class ShallowQueue(wiring.Component):
    """Queue of ``depth`` words, one in and one out per cycle, latency 2 cycles.

    The two oldest words wait in a :class:`~moesaic.hw.memory.skid.SkidBuffer`: unlike the output
    register of Amaranth's buffered queue, no word hangs on whether it is taken.

    Parameters
    ----------
    shape, depth
        Shape of the payload; words, 3 or more.

    Attributes
    ----------
    put, take
        The two ends; ``take.valid`` is a register.
    """

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        if depth < 3:
            raise ValueError(f"depth must be above 2, not {depth!r}")
        self.shape, self.depth = shape, depth
        super().__init__({"put": In(stream.Signature(shape)), "take": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = Shape.cast(self.shape).width
        m.submodules.words = words = SyncFIFO(width=bits, depth=self.depth - 2)
        m.submodules.oldest = oldest = SkidBuffer(self.shape)
        connect(m, oldest.o, flipped(self.take))
        m.d.comb += [
            words.w_en.eq(self.put.valid),
            words.w_data.eq(Cat(self.put.payload)),
            self.put.ready.eq(words.w_rdy),
            oldest.i.valid.eq(words.r_rdy),
            Cat(oldest.i.payload).eq(words.r_data),
            words.r_en.eq(oldest.i.ready),
        ]
        return m
