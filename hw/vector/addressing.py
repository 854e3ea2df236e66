"""Destination addresses of a chunk, rows scattered to the tokens of an expert included."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay
from moesaic.hw.vector.operation import COLUMN_BITS, ROW_BITS
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import GATE_BITS, ONE_Q15
from moesaic.spec.isa import Opcode


class Addressing(wiring.Component):
    """``base + row * stride + column / word``, one chunk per cycle.

    Inputs belong to the chunk in the cycle of its issue; the queue's answer comes one cycle
    later. ``weight`` follows after 1 cycle, the addresses after ``LATENCY``.

    Attributes
    ----------
    row, column, scatter, base, stride
        Of the chunk and its instruction.
    halved
        Two chunks have made one: its column is half of the second one's.
    token, queue_weight
        Queue entry ``row``, one cycle after the issue.
    weight
        Gate weight, or 1.0 for rows that are not scattered.
    activation, select
        Activation word, and the chunk within it.
    residual
        Residual word.
    """

    LATENCY = 4

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "row": In(ROW_BITS),
                "column": In(COLUMN_BITS),
                "scatter": In(1),
                "halved": In(1),
                "base": In(isa.width(Opcode.DRAIN, "base")),
                "stride": In(isa.width(Opcode.DRAIN, "stride")),
                "token": In(range(arch.max_tokens)),
                "queue_weight": In(GATE_BITS),
                "weight": Out(GATE_BITS),
                "activation": Out(range(arch.activation_words)),
                "select": Out(range(max(2, arch.depth // arch.lanes))),
                "residual": Out(range(arch.residual_words)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth_log2 = self.arch.depth.bit_length() - 1
        lanes_log2 = self.arch.lanes.bit_length() - 1
        scatter = delay(m, self.scatter, 1, "scatter")
        row = Signal(ROW_BITS, reset_less=True)
        offset = Signal(ROW_BITS + len(self.stride), reset_less=True)
        base = delay(m, self.base, 3, "base")
        column = delay(m, self.column, 2, "column")
        half = Cat(Const(0, lanes_log2), column[lanes_log2 + 1 :])
        column = delay(m, Mux(delay(m, self.halved, 2, "halved"), half, column), 1, "placed")
        m.d.comb += self.weight.eq(Mux(scatter, self.queue_weight, ONE_Q15))
        m.d.sync += [
            row.eq(Mux(scatter, self.token, delay(m, self.row, 1, "row"))),
            offset.eq(row * delay(m, self.stride, 2, "stride")),
            self.activation.eq(base + offset + (column >> depth_log2)),
            self.select.eq(column[lanes_log2:depth_log2]),
            self.residual.eq(base + offset + (column >> lanes_log2)),
        ]
        return m
