"""The array: ``depth`` products for each of ``width`` columns and cycle, summed per column."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.matrix.columns import (
    STREAMED_BITS,
    ColumnPair,
    column_latency,
    concatenate,
    sum_bits,
)
from moesaic.hw.matrix.stationary import PAIR, StationaryBus, high_bits, load_layout, rows_at_once
from moesaic.spec.arch import ArchConfig


def array_latency(arch: ArchConfig) -> int:
    """Cycles from a streamed word to its sums: its register, and what the columns take."""
    return 1 + column_latency(arch)


class Array(wiring.Component):
    """Multiplies a stream of words with the stationary tile, one word per cycle, never stalling.

    ``sums`` belongs to the word presented :func:`array_latency` cycles before, and holds its
    value until the next word's sums. ``packed`` architectures compute two products per DSP; the
    sums are the same bit for bit.

    ``swap`` in cycle s makes the shadow the active tile from cycle s + 2 on. Writes presented up
    to cycle s - 3 belong to that tile, writes from cycle s - 2 on to the one after it: a tile may
    be requested for use in the cycle of its last write, and the next one loaded right behind.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    word, is_signed, valid
        ``depth`` bytes, int8 if ``is_signed``, else uint8.
    swap
        Only with ``valid``: this word and the following meet the shadow tile.
    load, ring_word, operand_word
        Writes into the shadow tile, see :func:`~moesaic.hw.matrix.stationary.load_layout`.
    sums
        ``width`` signed sums of ``sum_bits``.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "word": In(8 * arch.depth),
                "is_signed": In(1),
                "valid": In(1),
                "swap": In(1),
                "load": In(load_layout(arch)),
                "ring_word": In(8 * arch.ring_read_bytes),
                "operand_word": In(8 * arch.depth),
                "sums": Out(arch.width * sum_bits(arch)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        m.submodules.bus = bus = StationaryBus(arch)
        m.d.comb += [
            bus.load.eq(self.load),
            bus.ring_word.eq(self.ring_word),
            bus.operand_word.eq(self.operand_word),
        ]
        valid = Signal()
        streamed = Signal(data.ArrayLayout(signed(STREAMED_BITS), arch.depth), reset_less=True)
        m.d.sync += valid.eq(self.valid)
        with m.If(self.valid):
            for d in range(arch.depth):
                byte = self.word[8 * d : 8 * d + 8]
                m.d.sync += streamed[d].eq(Cat(byte, self.is_signed & byte[7]))

        pairs = []
        for column in range(0, arch.width, PAIR):
            m.submodules[f"columns{column}"] = pair = ColumnPair(arch)
            first, bits = column // PAIR, 8 + high_bits(arch)
            rows = [
                bus.row_data.word_select(row * arch.width // PAIR + first, bits)
                for row in range(rows_at_once(arch))
            ]
            part = bus.part_enable[column // arch.depth]
            m.d.comb += [
                pair.streamed.eq(streamed),
                pair.valid.eq(valid),
                pair.swap.eq(self.swap),
                pair.row_data.eq(Cat(rows)),
                pair.row_enable.eq(bus.row_enable & part.replicate(arch.depth)),
                pair.column_data.eq(bus.column_data),
                pair.column_enable.eq(bus.column_enable[column : column + PAIR]),
            ]
            pairs.append(pair)
        m.d.comb += self.sums.eq(concatenate(pairs))
        return m
