"""The second chunk of a pair: lanes that can do no more than attention's part."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.exp2 import Exp2
from moesaic.hw.arithmetic.pipeline import delay
from moesaic.hw.arithmetic.requantise import Requantise
from moesaic.hw.vector.lanes import Lanes
from moesaic.hw.vector.operands import OPERAND_BITS, Operands
from moesaic.hw.vector.operation import (
    LIMIT_BITS,
    is_any,
    issue_layout,
    kinds_of,
)
from moesaic.hw.vector.output import CHUNK_BITS
from moesaic.spec import tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.drains import Operand
from moesaic.spec.formats import (
    ACCUMULATOR_BITS,
    MULTIPLIER_BITS,
    PROBABILITY_BITS,
    SHIFT_BITS,
)
from moesaic.spec.parts import factor_bits

_SCORE_KINDS = kinds_of(Operand.BELOW_MAXIMUM)
_SCORE_BITS = max(LIMIT_BITS[kind] for kind in _SCORE_KINDS)
_SUM_BITS = max(LIMIT_BITS[kind] for kind in kinds_of(Operand.SCALED_ROW))


class UpperLanes(wiring.Component):
    """Scores of a softmax and results of attention that lie a chunk behind those of ``Lanes``.

    The same arithmetic in the same cycles, without what needs parameters, tables, the residual
    memory or 16-bit results.

    Attributes
    ----------
    issue, multiplier, shift
        The chunk and fields of its instruction. What comes out counts if it is ``both`` of a pair.
    accumulators, maximum
        Accumulator row and row maximum, 2 cycles after the issue.
    scale, scale_shift
        Row scale (ATTENTION), 4 cycles after the issue.
    probability
        For the row sums, ``Lanes.PROBABILITY`` cycles after the issue; 0 where a lane is not valid.
    chunk
        Results, ``Lanes.RESULT`` cycles after the issue: int8 or a probability, the bits above
        are 0.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "issue": In(issue_layout(arch)),
                "multiplier": In(MULTIPLIER_BITS),
                "shift": In(SHIFT_BITS),
                "accumulators": In(ACCUMULATOR_BITS * arch.width),
                "maximum": In(ACCUMULATOR_BITS),
                "scale": In(MULTIPLIER_BITS),
                "scale_shift": In(SHIFT_BITS),
                "probability": Out(data.ArrayLayout(PROBABILITY_BITS, arch.lanes)),
                "chunk": Out(data.ArrayLayout(CHUNK_BITS, arch.lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = self.arch.lanes
        m.submodules.requantise = requantise = Requantise(
            count, OPERAND_BITS, (_SUM_BITS, _SCORE_BITS), factor_bits(self.arch.device)
        )
        m.submodules.exp2 = exp2 = Exp2(count)
        is_score = is_any(self.issue.operation, _SCORE_KINDS)
        requantised = Operands.LATENCY + Requantise.LATENCY
        operation = delay(m, is_score, Operands.LATENCY - 1, "is_score")
        at_result = delay(m, is_score, Lanes.PROBABILITY, "is_probability")
        pair = delay(m, self.issue.chunk[1:], 2, "pair")
        scores = Signal(ACCUMULATOR_BITS * count, reset_less=True)
        rows = self.accumulators.word_select(pair, 2 * len(scores))
        m.d.sync += scores.eq(rows[len(scores) :])
        scores = delay(m, scores, 1, "scores")
        maximum = delay(m, self.maximum, 2, "maximum").as_signed()
        column = self.issue.column[: tables.DITHER_BITS] | (count & (1 << tables.DITHER_BITS) - 1)
        multiplier, shift = Signal(MULTIPLIER_BITS), Signal(SHIFT_BITS)
        m.d.sync += [
            multiplier.eq(
                Mux(operation, delay(m, self.multiplier, 4, "field_multiplier"), self.scale)
            ),
            shift.eq(Mux(operation, delay(m, self.shift, 4, "field_shift"), self.scale_shift)),
            requantise.limit.eq(operation),
        ]
        m.d.comb += [
            requantise.multiplier.eq(multiplier.replicate(count)),
            requantise.shift.eq(shift.replicate(count)),
            exp2.column.eq(delay(m, column, requantised, "column")),
            exp2.valid.eq(delay(m, self.issue.lanes[count:], requantised, "lanes")),
            self.probability.eq(exp2.value),
        ]
        for i in range(count):
            score = scores.word_select(i, ACCUMULATOR_BITS).as_signed()
            operand = Signal(signed(OPERAND_BITS), name=f"operand_{i}", reset_less=True)
            m.d.sync += operand.eq(Mux(operation, maximum - score, score))
            value = requantise.value[i]
            m.d.comb += [
                requantise.operand[i].eq(operand),
                exp2.exponent[i].eq(value[: tables.EXPONENT_BITS]),
            ]
            int8 = delay(m, value[:_SUM_BITS], Lanes.PROBABILITY - requantised, f"narrow_{i}")
            line: Value = Signal(_SUM_BITS, name=f"line_{i}", reset_less=True)
            m.d.sync += line.eq(Mux(at_result, exp2.value[i], int8))
            line = delay(m, line, Lanes.RESULT - Lanes.PROBABILITY - 1, f"result_{i}")
            m.d.comb += self.chunk[i].eq(Cat(line, Const(0, CHUNK_BITS - _SUM_BITS)))
        return m
