"""The two passes of NORM over the residual rows, side by side on a read port each."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.vector.operation import ROW_BITS
from moesaic.hw.vector.statistics import Statistics
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Opcode


class Normaliser(wiring.Component):
    """Issues up to two reads per cycle: a word for the sums, and a word to normalise.

    The sums run ahead by up to ``Statistics.DEPTH`` rows, which hides the latency of the
    statistics behind all rows but the first.

    Attributes
    ----------
    start
        Begin with the inputs below, held while ``active``.
    rows, words, source_base, source_stride
        Fields of the instruction.
    may_sum, may_normalise
        The residual rows are final; statistics and a place behind the pipeline are there.
    sum, sum_address
        Read this residual word for the sums.
    normalise, address
        Read this residual word and normalise it.
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
                "rows": In(isa.width(Opcode.NORM, "rows")),
                "words": In(isa.width(Opcode.NORM, "words")),
                "source_base": In(isa.width(Opcode.NORM, "source_base")),
                "source_stride": In(isa.width(Opcode.NORM, "source_stride")),
                "may_sum": In(1),
                "may_normalise": In(1),
                "active": Out(1),
                "sum": Out(1),
                "sum_address": Out(range(arch.residual_words)),
                "normalise": Out(1),
                "address": Out(range(arch.residual_words)),
                "sum_first": Out(1),
                "sum_last": Out(1),
                "row": Out(ROW_BITS),
                "word": Out(isa.width(Opcode.NORM, "words")),
                "row_last": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        address_shape = self.address.shape()
        sum_rows, sum_word = Signal(len(self.rows)), Signal(len(self.words))
        sum_row_base, row_base = Signal(address_shape), Signal(address_shape)
        rows_left = Signal(len(self.rows))
        ahead = Signal(range(Statistics.DEPTH + 1))
        # Whether a word is its row's last, and a row the last one, is known a cycle before.
        one_word, sum_last, row_last, last_row = Signal(), Signal(), Signal(), Signal()
        sum_left, word_left = Signal(len(self.words)), Signal(len(self.words))
        sum_first, sums_left, may_begin = Signal(), Signal(), Signal()
        begins, ends = Signal(), Signal()
        m.d.comb += [
            # A row's place in the statistics is taken with its first word.
            self.sum.eq(self.may_sum & sums_left & (may_begin | ~sum_first)),
            self.normalise.eq(self.active & self.may_normalise),
            self.sum_address.eq(sum_row_base + sum_word),
            self.address.eq(row_base + self.word),
            self.sum_first.eq(sum_first),
            self.sum_last.eq(sum_last),
            self.row_last.eq(row_last),
            self.last.eq(row_last & last_row),
            begins.eq(self.sum & self.sum_first),
            ends.eq(self.normalise & self.row_last),
        ]
        m.d.sync += [
            ahead.eq(ahead + begins - ends),
            may_begin.eq((ahead < Statistics.DEPTH - 1) | ((ahead != Statistics.DEPTH) & ~begins)),
        ]
        with m.If(self.sum):
            m.d.sync += [
                sum_word.eq(sum_word + 1),
                sum_first.eq(0),
                sum_left.eq(sum_left - 1),
                sum_last.eq(sum_left == 1),
            ]
            with m.If(sum_last):
                m.d.sync += [
                    sum_word.eq(0),
                    sum_first.eq(1),
                    sum_left.eq(self.words - 1),
                    sum_last.eq(one_word),
                    sum_rows.eq(sum_rows - 1),
                    sums_left.eq(sum_rows != 1),
                    sum_row_base.eq(sum_row_base + self.source_stride),
                ]
        with m.If(self.normalise):
            m.d.sync += [
                self.word.eq(self.word + 1),
                word_left.eq(word_left - 1),
                row_last.eq(word_left == 1),
            ]
            with m.If(row_last):
                m.d.sync += [
                    self.word.eq(0),
                    word_left.eq(self.words - 1),
                    row_last.eq(one_word),
                    self.row.eq(self.row + 1),
                    rows_left.eq(rows_left - 1),
                    last_row.eq(rows_left == 2),
                    row_base.eq(row_base + self.source_stride),
                ]
            with m.If(self.last):
                m.d.sync += self.active.eq(0)
        with m.If(self.start):
            m.d.sync += [
                self.active.eq(1),
                sum_rows.eq(self.rows),
                sums_left.eq(1),
                rows_left.eq(self.rows),
                last_row.eq(self.rows == 1),
                one_word.eq(self.words == 1),
                sum_word.eq(0),
                sum_first.eq(1),
                sum_left.eq(self.words - 1),
                sum_last.eq(self.words == 1),
                self.word.eq(0),
                word_left.eq(self.words - 1),
                row_last.eq(self.words == 1),
                self.row.eq(0),
                sum_row_base.eq(self.source_base),
                row_base.eq(self.source_base),
            ]
        return m
