"""Where the cosines and sines of a rotation are in the residual memory."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay
from moesaic.hw.vector.operation import issue_layout
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Opcode


class Angles(wiring.Component):
    """Steps through the angles of a row with its chunks, and through the rows.

    A pair of chunks has a word of cosines and behind it one of sines. They are read in the order
    in which the products need them: cosine, sine for the first chunk, sine, cosine for the second.

    Attributes
    ----------
    start
        Load ``base``; no chunk is issued in this cycle or has been in the one before.
    base, words
        Fields of the instruction.
    issue
        The chunk, in the cycle of its issue.
    address
        Residual word, ``LATENCY`` cycles after the issue.
    """

    LATENCY = 2

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "start": In(1),
                "base": In(isa.width(Opcode.DRAIN, "angles")),
                "words": In(isa.width(Opcode.DRAIN, "angle_words")),
                "issue": In(issue_layout(arch)),
                "address": Out(range(arch.residual_words)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row, pair = Signal.like(self.address), Signal.like(self.words)
        issue = self.issue
        # A chunk comes late in the cycle of its issue.
        valid = delay(m, issue.valid, 1, "valid", control=True)
        ends = delay(m, issue.rotary & issue.second & issue.again, 1, "ends")
        row_last = delay(m, issue.row_last, 1, "row_last")
        is_sine = delay(m, issue.second ^ issue.again, 1, "is_sine")
        m.d.sync += self.address.eq(row + (pair | is_sine))
        with m.If(self.start):
            m.d.sync += [row.eq(self.base), pair.eq(0)]
        with m.Elif(valid & ends):
            following = pair + 2
            m.d.sync += pair.eq(Mux(row_last | (following == self.words), 0, following))
            with m.If(row_last):
                m.d.sync += row.eq(row + self.words)
        return m
