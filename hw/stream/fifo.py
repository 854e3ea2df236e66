"""A FIFO in block memory that gives one word per cycle."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.axi.skid import SkidBuffer
from moesaic.hw.ram import Ram


class RamFifo(wiring.Component):
    """FIFO of ``depth`` words of ``width`` bits (two more fit into its output stage).

    One word in and one word out per cycle. A word written to the empty FIFO is on ``o`` 3 cycles
    later. The memory's read enable and all outputs but ``o`` of an empty stage hang on registers
    only, so that the memory can be large and far away.

    Parameters
    ----------
    width
        Bits per word.
    depth
        Words; power of two, at least 2.

    Raises
    ------
    ValueError
        ``depth`` is no power of two above 1.
    """

    def __init__(self, width: int, depth: int) -> None:
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two above 1, not {depth!r}")
        self.width, self.depth = width, depth
        super().__init__({"i": In(stream.Signature(width)), "o": Out(stream.Signature(width))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.ram = ram = Ram(self.width, self.depth)
        m.submodules.skid = skid = SkidBuffer(self.width)

        # One bit more than an address tells full from empty.
        written, read = Signal(range(2 * self.depth)), Signal(range(2 * self.depth))
        level = Signal(range(self.depth + 1))
        fetch, held = Signal(), Signal()
        m.d.comb += [
            level.eq((written - read)[: len(level)]),
            self.i.ready.eq(level != self.depth),
            ram.write_enable.eq(self.i.valid & self.i.ready),
            ram.write_address.eq(written),
            ram.write_data.eq(self.i.payload),
            # The memory's output register is the first output stage.
            fetch.eq(level.any() & (~held | skid.i.ready)),
            ram.read_enable.eq(fetch),
            ram.read_address.eq(read),
            skid.i.valid.eq(held),
            skid.i.payload.eq(ram.read_data),
        ]
        with m.If(ram.write_enable):
            m.d.sync += written.eq(written + 1)
        with m.If(fetch):
            m.d.sync += read.eq(read + 1)
        with m.If(fetch | skid.i.ready):
            m.d.sync += held.eq(fetch)
        wiring.connect(m, skid.o, wiring.flipped(self.o))
        return m
