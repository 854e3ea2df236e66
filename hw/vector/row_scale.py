"""Sums of softmax rows, kept as 1/sum until the product with the values is drained."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import add_tree, delay, tree_latency
from moesaic.hw.arithmetic.reciprocal import Reciprocal
from moesaic.hw.memory.ram import Ram
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import MULTIPLIER_BITS, PROBABILITY_BITS, SHIFT_BITS

SUM_BITS = isa.width(isa.Opcode.DRAIN, "columns") + PROBABILITY_BITS
"""Sum of a row's probabilities."""


class RowScale(wiring.Component):
    """FIFO of two blocks of rows: every SOFTMAX fills one, every ATTENTION empties one.

    Attributes
    ----------
    valid, probability, row, row_first, row_last, block_last
        A chunk of probabilities of ``row``, or a pair of them; its place in the row; the block's
        last one.
    ready
        The oldest block is complete.
    read_row
        Row of the oldest block; its ``scale`` and ``shift`` follow 4 cycles later.
    release
        Drop the oldest block; reads of this cycle still return its data.
    multiplier, instruction_shift
        Of the ATTENTION, two cycles after ``read_row``.
    scale, shift
        ``multiplier / sum`` as 16-bit mantissa and right shift (limited to 63).
    """

    READ_LATENCY = 4

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        rows = range(arch.accumulator_rows)
        super().__init__(
            {
                "valid": In(1),
                "probability": In(data.ArrayLayout(PROBABILITY_BITS, arch.most_lanes)),
                "row": In(rows),
                "row_first": In(1),
                "row_last": In(1),
                "block_last": In(1),
                "ready": Out(1),
                "read_row": In(rows),
                "release": In(1),
                "multiplier": In(MULTIPLIER_BITS),
                "instruction_shift": In(SHIFT_BITS),
                "scale": Out(MULTIPLIER_BITS),
                "shift": Out(SHIFT_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arch = self.arch
        stages = tree_latency(arch.most_lanes)
        chunk_sum = add_tree(m, [self.probability[i] for i in range(arch.most_lanes)], "tree")
        first = delay(m, self.valid & self.row_first, stages, "first", control=True)
        valid = delay(m, self.valid, stages, "valid", control=True)
        total = Signal(SUM_BITS)
        with m.If(valid):
            m.d.sync += total.eq(Mux(first, 0, total) + chunk_sum)

        m.submodules.reciprocal = reciprocal = Reciprocal(SUM_BITS)
        m.d.comb += reciprocal.value.eq(total)
        latency = stages + 1 + Reciprocal.LATENCY
        write = delay(m, self.valid & self.row_last, latency, "write", control=True)
        complete = delay(
            m, self.valid & self.row_last & self.block_last, latency, "complete", control=True
        )
        row = delay(m, self.row, latency, "row")

        m.submodules.ram = ram = Ram(
            len(reciprocal.mantissa) + len(reciprocal.exponent), 2 * arch.accumulator_rows
        )
        write_block, read_block = Signal(), Signal()
        blocks = Signal(2)
        m.d.comb += [
            ram.write_enable.eq(write),
            ram.write_address.eq(Cat(row, write_block)),
            ram.write_data.eq(Cat(reciprocal.mantissa, reciprocal.exponent)),
            ram.read_enable.eq(1),
            ram.read_address.eq(Cat(self.read_row, read_block)),
            self.ready.eq(blocks != 0),
        ]
        m.d.sync += [
            blocks.eq(blocks + complete - self.release),
            write_block.eq(write_block ^ complete),
            read_block.eq(read_block ^ self.release),
        ]

        mantissa_bits = len(reciprocal.mantissa)
        word = delay(m, ram.read_data, 1, "word")
        mantissa, exponent = word[:mantissa_bits], word[mantissa_bits:]
        product = Signal(32, reset_less=True)
        exponent_2 = Signal(SHIFT_BITS + 1, reset_less=True)
        m.d.sync += [
            product.eq(mantissa * self.multiplier),
            exponent_2.eq(exponent + self.instruction_shift),
            self.scale.eq((product + (1 << 15)) >> 16),
            self.shift.eq(Mux(exponent_2[SHIFT_BITS], (1 << SHIFT_BITS) - 1, exponent_2)),
        ]
        return m
