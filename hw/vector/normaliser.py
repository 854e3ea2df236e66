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
        begins, ends = Signal(), Signal()
        m.d.comb += [
            # A row's place in the statistics is taken with its first word.
            self.sum.eq(
                self.may_sum & (sum_rows != 0) & ((ahead != Statistics.DEPTH) | (sum_word != 0))
            ),
            self.normalise.eq(self.active & self.may_normalise),
            self.sum_address.eq(sum_row_base + sum_word),
            self.address.eq(row_base + self.word),
            self.sum_first.eq(sum_word == 0),
            self.sum_last.eq(sum_word == self.words - 1),
            self.row_last.eq(self.word == self.words - 1),
            self.last.eq(self.row_last & (rows_left == 1)),
            begins.eq(self.sum & self.sum_first),
            ends.eq(self.normalise & self.row_last),
        ]
        m.d.sync += ahead.eq(ahead + begins - ends)
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
