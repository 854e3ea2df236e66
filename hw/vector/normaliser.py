"""The two passes of NORM over the residual rows, interleaved on one read port."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.vector.operation import ROW_BITS
from moesaic.hw.vector.statistics import Statistics
from moesaic.spec.arch import ArchConfig


class Normaliser(wiring.Component):
    """Issues one read per cycle: a word for the sums, or a word to normalise.

    The passes alternate when both can go. The sums run ahead by up to ``Statistics.DEPTH`` rows,
    which hides the latency of the statistics even for rows of one word.

    Attributes
    ----------
    start
        Begin with the inputs below, held while ``active``.
    rows, words, source_base, source_stride
        Fields of the instruction.
    may_sum, may_normalise
        The residual rows are final; statistics and a place behind the pipeline are there.
    address
        Residual word to read now.
    sum, normalise
        Which pass the read belongs to, if any.
    sum_first, sum_last
        First and last word of the row, of the sums.
    row, word, row_last, last
        Of the word to normalise; ``last`` ends the instruction.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "start": In(1),
                "rows": In(12),
                "words": In(10),
                "source_base": In(20),
                "source_stride": In(12),
                "may_sum": In(1),
                "may_normalise": In(1),
                "active": Out(1),
                "address": Out(range(arch.residual_words)),
                "sum": Out(1),
                "normalise": Out(1),
                "sum_first": Out(1),
                "sum_last": Out(1),
                "row": Out(ROW_BITS),
                "word": Out(10),
                "row_last": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        address_shape = self.address.shape()
        sum_rows, sum_word = Signal(12), Signal(10)
        sum_row_base, row_base = Signal(address_shape), Signal(address_shape)
        rows_left = Signal(12)
        ahead = Signal(range(Statistics.DEPTH + 1))
        turn = Signal()  # high: the sums go first
        can_sum, can_normalise = Signal(), Signal()
        begins, ends = Signal(), Signal()
        m.d.comb += [
            # A row's place in the statistics is taken with its first word.
            can_sum.eq(
                self.may_sum & (sum_rows != 0) & ((ahead != Statistics.DEPTH) | (sum_word != 0))
            ),
            can_normalise.eq(self.active & self.may_normalise),
            self.sum.eq(can_sum & (turn | ~can_normalise)),
            self.normalise.eq(can_normalise & ~self.sum),
            self.sum_first.eq(sum_word == 0),
            self.sum_last.eq(sum_word == self.words - 1),
            self.row_last.eq(self.word == self.words - 1),
            self.last.eq(self.row_last & (rows_left == 1)),
            begins.eq(self.sum & self.sum_first),
            ends.eq(self.normalise & self.row_last),
        ]
        with m.If(self.sum):
            m.d.comb += self.address.eq(sum_row_base + sum_word)
        with m.Else():
            m.d.comb += self.address.eq(row_base + self.word)

        m.d.sync += [turn.eq(~turn), ahead.eq(ahead + begins - ends)]
        with m.If(self.sum):
            m.d.sync += sum_word.eq(sum_word + 1)
            with m.If(self.sum_last):
                m.d.sync += [
                    sum_word.eq(0),
                    sum_rows.eq(sum_rows - 1),
                    sum_row_base.eq(sum_row_base + self.source_stride),
                ]
        with m.If(self.normalise):
            m.d.sync += self.word.eq(self.word + 1)
            with m.If(self.row_last):
                m.d.sync += [
                    self.word.eq(0),
                    self.row.eq(self.row + 1),
                    rows_left.eq(rows_left - 1),
                    row_base.eq(row_base + self.source_stride),
                ]
            with m.If(self.last):
                m.d.sync += self.active.eq(0)
        with m.If(self.start):
            m.d.sync += [
                self.active.eq(1),
                sum_rows.eq(self.rows),
                rows_left.eq(self.rows),
                sum_word.eq(0),
                self.word.eq(0),
                self.row.eq(0),
                sum_row_base.eq(self.source_base),
                row_base.eq(self.source_base),
            ]
        return m
