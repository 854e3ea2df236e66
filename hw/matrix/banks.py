"""Two banks of rows: the matrix unit updates one while the vector unit reads the other."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.memory.ram import Ram


class BankedRows(wiring.Component):
    """Two RAMs of ``rows`` words of ``width`` bits, one write and one read port each.

    Both sides get their data two cycles after the address. A bank whose ``full`` bit is high is
    read by the drain side, the others by the fill side. A word written in cycle c is found by
    reads from cycle c + 1 on.

    Parameters
    ----------
    width, rows
        Bits per word; words per bank.

    Attributes
    ----------
    full, drain_bank
        Which banks belong to the drain side; the one it reads.
    fill_address, fill_bank, fill_data
        Read port of the matrix unit; ``fill_bank`` is sampled with the address. ``fill_data``
        only changes one cycle after ``fill_enable``, that is for reads that matter.
    fill_enable
        One cycle after ``fill_address``.
    drain_address, drain_data
        Read port of the vector unit.
    write_enable, write_bank, write_address, write_data
        Write port of the matrix unit.
    """

    def __init__(self, width: int, rows: int) -> None:
        self.width, self.rows = width, rows
        super().__init__(
            {
                "full": In(2),
                "drain_bank": In(1),
                "fill_address": In(range(rows)),
                "fill_bank": In(1),
                "fill_enable": In(1),
                "fill_data": Out(width),
                "drain_address": In(range(rows)),
                "drain_data": Out(width),
                "write_enable": In(1),
                "write_bank": In(1),
                "write_address": In(range(rows)),
                "write_data": In(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = []
        for b in range(2):
            m.submodules[f"bank{b}"] = ram = Ram(self.width, self.rows)
            m.d.comb += [
                ram.write_enable.eq(self.write_enable & (self.write_bank == b)),
                ram.write_address.eq(self.write_address),
                ram.write_data.eq(self.write_data),
                ram.read_address.eq(Mux(self.full[b], self.drain_address, self.fill_address)),
            ]
            words.append(ram.read_data)
        fill_bank, drain_bank, drained = Signal(), Signal(), Signal()
        fill_data = Signal(self.width, reset_less=True)
        drain_data = Signal(self.width, reset_less=True)
        m.d.sync += [
            fill_bank.eq(self.fill_bank),
            drain_bank.eq(self.drain_bank),
            drained.eq(self.full.any()),
        ]
        with m.If(drained):
            m.d.sync += drain_data.eq(Mux(drain_bank, words[1], words[0]))
        with m.If(self.fill_enable):
            m.d.sync += fill_data.eq(Mux(fill_bank, words[1], words[0]))
        m.d.comb += [self.fill_data.eq(fill_data), self.drain_data.eq(drain_data)]
        return m
