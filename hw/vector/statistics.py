"""First pass of NORM: sums of a residual row, and from them the row's mean and gain."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import add_tree, delay, tree_latency
from moesaic.hw.arithmetic.product import wide_product
from moesaic.hw.arithmetic.reciprocal_sqrt import ReciprocalSqrt
from moesaic.hw.vector.operation import (
    SQUARE_BITS,
    TOTAL_BITS,
    VARIANCE_BITS,
    statistics_layout,
)
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import MULTIPLIER_BITS, RESIDUAL_BITS, SHIFT_BITS
from moesaic.spec.isa import Opcode
from moesaic.spec.parts import factor_bits

_MULTIPLY_CYCLES = 3


class Statistics(wiring.Component):
    """Sum and sum of squares in one pass, then ``multiplier / sqrt(variance)``, per row.

    ``variance = channels * sum(x * x) - sum(x)**2 + epsilon``, at least 1. A row's result is in
    the FIFO at most ``LATENCY_LIMIT`` cycles after its last word; rows may follow each other
    without a gap. No more than ``DEPTH`` rows may be under way or in the FIFO.

    Attributes
    ----------
    valid, words, row_first, row_last
        One residual word per cycle, and its place in the row.
    channels, epsilon, multiplier, shift, plain
        Fields of the instruction, held until the last row is taken.
    rows
        Results in row order: ``total``; ``gain``, ``shift``:
        ``(channels * x - total) * gain / 2**shift`` is the normalised value. Of ``plain`` rows they
        are 0 and the fields ``multiplier`` and ``shift``.
    """

    DEPTH = 32
    LATENCY_LIMIT = 27
    LATENCY_LEAST = 14
    """Rotations that were issued before have read their angles by then."""

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "valid": In(1),
                "words": In(data.ArrayLayout(signed(RESIDUAL_BITS), arch.lanes)),
                "row_first": In(1),
                "row_last": In(1),
                "channels": In(isa.width(Opcode.NORM, "channels")),
                "epsilon": In(isa.width(Opcode.NORM, "epsilon")),
                "multiplier": In(MULTIPLIER_BITS),
                "shift": In(SHIFT_BITS),
                "plain": In(1),
                "rows": Out(stream.Signature(statistics_layout())),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = range(self.arch.lanes)
        values, squares = [], []
        for i in lanes:
            square = Signal(2 * RESIDUAL_BITS - 1, name=f"square_{i}", reset_less=True)
            word = delay(m, self.words[i], 1, f"word_{i}").as_signed()
            m.d.sync += square.eq(word * word)
            values.append(delay(m, word, 1, f"value_{i}").as_signed())
            squares.append(square)
        value_sum = add_tree(m, values, "value_tree")
        square_sum = add_tree(m, squares, "square_tree")
        latency = 2 + tree_latency(self.arch.lanes)
        valid = delay(m, self.valid, latency, "valid", control=True)
        first = delay(m, self.row_first, latency, "first")
        total, square = Signal(signed(TOTAL_BITS)), Signal(SQUARE_BITS)
        with m.If(valid):
            m.d.sync += [
                total.eq(Mux(first, 0, total) + value_sum),
                square.eq(Mux(first, 0, square) + square_sum),
            ]

        factors = factor_bits(self.arch.device)
        scaled = wide_product(m, square, self.channels, _MULTIPLY_CYCLES, "scaled", factors)
        squared = wide_product(m, total, total, _MULTIPLY_CYCLES, "squared", factors).as_unsigned()
        difference = Signal(signed(VARIANCE_BITS + 1), reset_less=True)
        variance = Signal(signed(VARIANCE_BITS + 1), reset_less=True)
        positive = Signal(VARIANCE_BITS, reset_less=True)
        m.submodules.root = root = ReciprocalSqrt(VARIANCE_BITS)
        m.d.sync += [
            difference.eq(scaled - squared),
            variance.eq(difference + self.epsilon),
            positive.eq(Mux(variance < 1, 1, variance)),
        ]
        product = Signal(32, reset_less=True)
        gain = Signal(MULTIPLIER_BITS, reset_less=True)
        m.d.comb += root.value.eq(positive)
        m.d.sync += [
            product.eq(root.mantissa * self.multiplier),
            gain.eq((product + (1 << 15)) >> 16),
        ]
        exponent = delay(m, root.exponent, 1, "exponent")
        shift = Signal(SHIFT_BITS + 1, reset_less=True)
        m.d.sync += shift.eq(exponent + self.shift)

        after_sums = _MULTIPLY_CYCLES + 3 + ReciprocalSqrt.LATENCY + 2
        if 1 + latency + 1 + after_sums > self.LATENCY_LIMIT:
            raise AssertionError("Statistics.LATENCY_LIMIT is too small")
        if latency + after_sums < self.LATENCY_LEAST:
            raise AssertionError("Statistics.LATENCY_LEAST is too large")
        put = delay(m, self.valid & self.row_last, latency + 1 + after_sums, "put", control=True)

        row = Signal(statistics_layout())
        m.d.comb += [
            row.total.eq(Mux(self.plain, 0, delay(m, total, after_sums, "total").as_signed())),
            row.gain.eq(Mux(self.plain, self.multiplier, gain)),
            row.shift.eq(
                Mux(
                    self.plain,
                    self.shift,
                    Mux(shift[SHIFT_BITS], (1 << SHIFT_BITS) - 1, shift),
                )
            ),
        ]
        m.submodules.memory = memory = Memory(shape=statistics_layout(), depth=self.DEPTH, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        some = Signal()
        take = self.rows.valid & self.rows.ready
        m.d.comb += [
            write.data.eq(row),
            write.en.eq(put),
            self.rows.valid.eq(some),
            self.rows.payload.eq(read.data),
        ]
        # Taking hangs on much, so it reaches only what is one gate away: whether the row taken is
        # the only one is seen in the addresses.
        read_at, write_at = Signal(range(self.DEPTH)), Signal(range(self.DEPTH))
        next_read = Signal(range(self.DEPTH), init=1)
        m.d.comb += [read.addr.eq(read_at), write.addr.eq(write_at)]
        m.d.sync += [
            write_at.eq(write_at + put),
            some.eq(put | (some & (~take | (next_read != write_at)))),
        ]
        with m.If(take):
            m.d.sync += [read_at.eq(next_read), next_read.eq(next_read + 1)]
        return m
