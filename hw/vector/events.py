"""What the vector unit reports to the performance counters."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay
from moesaic.hw.vector.operation import COLUMN_BITS, ROW_BITS
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Opcode

_COLUMNS = isa.width(Opcode.DRAIN, "columns")


class VectorEvents(wiring.Signature):
    """Increments of the counters of the same names; valid in every cycle."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "vector_chunks": Out(1),
                "score_words": Out(_COLUMNS + 1 - (arch.most_lanes.bit_length() - 1)),
                "score_reads": Out(1),
                "activation_lookups": Out(range(arch.lanes + 1)),
                "norm_rows": Out(1),
            }
        )


STALLS = (
    "vector_wait_bank",
    "vector_wait_parameters",
    "vector_wait_scale",
    "vector_wait_output",
)
"""Counters of what a drain waits for, in the order of precedence: one of them counts a cycle."""


class EventCounter(wiring.Component):
    """Turns what happens into increments, two cycles later.

    Scores that exist are counted from the instruction alone, row by row, and scores that are read
    where they are read: the two counters are equal exactly if softmax reads every score once.

    Attributes
    ----------
    softmax_start, rows, columns
        A SOFTMAX of so many rows and valid columns begins; held while it runs.
    drained, softmax, active, valid_columns
        A chunk was issued; of which kind; how many valid columns there are from its first on.
    some_lanes, all_lanes
        Its first and its last lane are valid.
    normalised
        A row's last word was issued.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "softmax_start": In(1),
                "rows": In(ROW_BITS),
                "columns": In(_COLUMNS),
                "drained": In(1),
                "softmax": In(1),
                "active": In(1),
                "valid_columns": In(signed(COLUMN_BITS + 1)),
                "some_lanes": In(1),
                "all_lanes": In(1),
                "normalised": In(1),
                "events": Out(VectorEvents(arch)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.arch.lanes
        rows_left = Signal(ROW_BITS)
        row_chunks = Signal(self.events.score_words.shape())
        most = self.arch.most_lanes
        m.d.comb += row_chunks.eq((self.columns + (most - 1)) >> most.bit_length() - 1)
        with m.If(self.softmax_start):
            m.d.sync += rows_left.eq(self.rows)
        with m.Elif(rows_left != 0):
            m.d.sync += rows_left.eq(rows_left - 1)

        drained, softmax, active, normalised, all_lanes = (
            delay(m, signal, 1, name, control=True)
            for signal, name in (
                (self.drained & self.some_lanes, "drained"),
                (self.softmax, "softmax"),
                (self.active, "active"),
                (self.normalised, "normalised"),
                (self.all_lanes, "all_lanes"),
            )
        )
        few = delay(m, self.valid_columns[: lanes.bit_length() - 1], 1, "few")
        values = Mux(all_lanes, lanes, few)
        m.d.sync += [
            self.events.vector_chunks.eq(drained),
            self.events.score_reads.eq(drained & softmax),
            self.events.score_words.eq(Mux(rows_left != 0, row_chunks, 0)),
            self.events.activation_lookups.eq(Mux(drained & active, values, 0)),
            self.events.norm_rows.eq(normalised),
        ]
        return m
