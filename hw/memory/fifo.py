"""First-in first-out queue in block RAM, a stream at either end."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.memory.ram import Ram


class RamFifo(wiring.Component):
    """Queue of ``depth`` words of ``width`` bits, one in and one out per cycle.

    A word can be taken two cycles after it was put, or three. The oldest word waits at the RAM's
    output, so up to ``depth + 1`` words fit, or 2 more.

    Parameters
    ----------
    width, depth
        Bits per word; words in the RAM, a power of two.
    registered
        A register, for one more word, behind the RAM: a block RAM has one of its own, which is
        three times as fast as its memory. Worth a cycle where the RAM is spread over many.
    ultra
        The RAM is UltraRAM: a word is never taken out of it in the cycle in which it is put in.

    Attributes
    ----------
    put, take
        The two ends.
    level
        Words inside.
    """

    def __init__(
        self, width: int, depth: int, *, registered: bool = False, ultra: bool = False
    ) -> None:
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two above 1, not {depth!r}")
        self.width, self.depth, self.registered, self._ultra = width, depth, registered, ultra
        super().__init__(
            {
                "put": In(stream.Signature(width)),
                "take": Out(stream.Signature(width)),
                "level": Out(range(depth + 2 + registered)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.ram = ram = Ram(self.width, self.depth, ultra=self._ultra)
        write, read = Signal(range(self.depth)), Signal(range(self.depth))
        # The counter decides nothing in the cycle that uses it: its two ends are registers.
        stored, some, full = Signal(range(self.depth + 1)), Signal(), Signal()
        loaded = Signal()
        put, fetch, leave = Signal(), Signal(), Signal()
        m.d.comb += [
            self.put.ready.eq(~full),
            put.eq(self.put.valid & self.put.ready),
            # Also with a register not so where its word only moves up: much hangs on it.
            fetch.eq(some & (~loaded | self.take.ready)),
            ram.write_enable.eq(put),
            ram.write_address.eq(write),
            ram.write_data.eq(self.put.payload),
            ram.read_enable.eq(fetch),
            ram.read_address.eq(read),
        ]
        m.d.sync += [
            write.eq(write + put),
            read.eq(read + fetch),
            stored.eq(stored + put - fetch),
            some.eq(put | (some & (~fetch | (stored != 1)))),
            full.eq(~fetch & (full | (put & (stored == self.depth - 1)))),
        ]
        with m.If(fetch):
            m.d.sync += loaded.eq(1)
        with m.Elif(leave):
            m.d.sync += loaded.eq(0)
        if not self.registered:
            m.d.comb += [
                leave.eq(self.take.ready),
                self.take.payload.eq(ram.read_data),
                self.take.valid.eq(loaded),
                self.level.eq(stored + loaded),
            ]
            return m
        word, shown = Signal(self.width, reset_less=True), Signal()
        m.d.comb += [
            leave.eq(~shown | self.take.ready),
            self.take.payload.eq(word),
            self.take.valid.eq(shown),
            self.level.eq(stored + loaded + shown),
        ]
        with m.If(leave):
            m.d.sync += [word.eq(ram.read_data), shown.eq(loaded)]
        return m
