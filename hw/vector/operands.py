"""The front of the lane pipeline: what each lane multiplies by what."""

from __future__ import annotations

from amaranth import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay
from moesaic.hw.vector.operation import (
    LIMIT_BITS,
    LIMITS,
    NORM,
    ROTARY_KINDS,
    SPLIT_KINDS,
    check_implemented,
    is_none,
    issue_layout,
    kinds_of,
    statistics_layout,
)
from moesaic.hw.vector.parameters import parameter_layout
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.drains import DRAINS, Function, Operand
from moesaic.spec.formats import (
    ACCUMULATOR_BITS,
    HIDDEN_BITS,
    MULTIPLIER_BITS,
    RESIDUAL_BITS,
    ROTARY_BITS,
    SHIFT_BITS,
)
from moesaic.spec.isa import Opcode

OPERANDS = (Operand.BIASED, Operand.BELOW_MAXIMUM, Operand.SCALED_ROW)
"""What can be chosen from."""
OPERAND_BITS = ACCUMULATOR_BITS + 1
"""int32 accumulator plus int32 bias, or maximum minus score."""


class Operands(wiring.Component):
    """Operand, multiplier, shift and saturation limit of every lane, ``LATENCY`` after the issue.

    Attributes
    ----------
    issue, multiplier, shift, wide, channels, statistics
        The chunk, fields of its instruction, and its row's statistics (NORM).
    residual, parameters
        Residual word and parameter block entries, 1 cycle after the issue.
    accumulators, maximum
        Accumulator row and row maximum, 2 cycles after the issue.
    scale, scale_shift
        Row scale (ATTENTION), 4 cycles after the issue.
    operand, lane_multiplier, lane_shift, limit
        Inputs of the first requantiser.
    """

    LATENCY = 5

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        lanes = arch.lanes
        super().__init__(
            {
                "issue": In(issue_layout(arch)),
                "multiplier": In(MULTIPLIER_BITS),
                "shift": In(SHIFT_BITS),
                "wide": In(1),
                "channels": In(isa.width(Opcode.NORM, "channels")),
                "statistics": In(statistics_layout()),
                "residual": In(data.ArrayLayout(signed(RESIDUAL_BITS), lanes)),
                "parameters": In(data.ArrayLayout(parameter_layout(), lanes)),
                "accumulators": In(ACCUMULATOR_BITS * arch.width),
                "maximum": In(ACCUMULATOR_BITS),
                "scale": In(MULTIPLIER_BITS),
                "scale_shift": In(SHIFT_BITS),
                "operand": Out(data.ArrayLayout(signed(OPERAND_BITS), lanes)),
                "lane_multiplier": Out(data.ArrayLayout(MULTIPLIER_BITS, lanes)),
                "lane_shift": Out(data.ArrayLayout(SHIFT_BITS, lanes)),
                "limit": Out(range(len(LIMITS))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        check_implemented("Operands", [each.operand for each in DRAINS.values()], OPERANDS)
        below, scaled_row = kinds_of(Operand.BELOW_MAXIMUM), kinds_of(Operand.SCALED_ROW)
        lanes = self.arch.lanes
        operation = delay(m, self.issue.operation, 4, "operation")
        chunk = delay(m, self.issue.chunk, 2, "chunk")
        scores = Signal(ACCUMULATOR_BITS * lanes, reset_less=True)
        m.d.sync += scores.eq(self.accumulators.word_select(chunk, len(scores)))
        scores = delay(m, scores, 1, "scores")
        maximum = delay(m, self.maximum, 2, "maximum").as_signed()
        channels = delay(m, self.channels, 3, "channels")
        total = delay(m, self.statistics.total, 4, "total").as_signed()

        # Not inside the switch: a register there would be loaded in that case only.
        gain = delay(m, self.statistics.gain, 4, "gain")
        gain_shift = delay(m, self.statistics.shift, 4, "gain_shift")
        field_multiplier = delay(m, self.multiplier, 4, "multiplier")
        field_shift = delay(m, self.shift, 4, "shift")
        multiplier, shift = Signal(MULTIPLIER_BITS), Signal(SHIFT_BITS)
        with m.Switch(operation):
            with m.Case(*scaled_row):
                m.d.comb += [multiplier.eq(self.scale), shift.eq(self.scale_shift)]
            with m.Case(NORM):
                m.d.comb += [multiplier.eq(gain), shift.eq(gain_shift)]
            with m.Default():  # BELOW_MAXIMUM; the others have parameters
                m.d.comb += [multiplier.eq(field_multiplier), shift.eq(field_shift)]
        own = Signal()
        m.d.comb += own.eq(is_none(operation, (*below, *scaled_row, NORM)))
        wide = delay(m, self.wide, 4, "wide")
        holds = delay(m, self.issue.holds, 4, "holds")
        rotary = delay(m, self.issue.rotary, 4, "rotary")
        with m.Switch(operation):
            for kind, bits in LIMIT_BITS.items():
                limit: Value = Const(LIMITS.index(bits))
                if kind in SPLIT_KINDS:
                    limit = Mux(wide, LIMITS.index(RESIDUAL_BITS), limit)
                if kind in kinds_of(Function.ACTIVATION):  # what holds is a factor
                    limit = Mux(holds, LIMITS.index(HIDDEN_BITS), limit)
                if kind in ROTARY_KINDS:
                    limit = Mux(rotary, LIMITS.index(ROTARY_BITS), limit)
                with m.Case(kind):
                    m.d.sync += self.limit.eq(limit)

        for i in range(lanes):
            parameters = self.parameters[i]
            bias = delay(m, parameters.bias, 2, f"bias_{i}").as_signed()
            lane_multiplier = delay(m, parameters.multiplier, 2, f"own_multiplier_{i}")
            # The largest shift leaves nothing; so do those that do not fit.
            limited = Mux(
                parameters.shift[SHIFT_BITS:].any(),
                (1 << SHIFT_BITS) - 1,
                parameters.shift[:SHIFT_BITS],
            )
            lane_shift = delay(m, limited, 2, f"own_shift_{i}")
            score = scores.word_select(i, ACCUMULATOR_BITS).as_signed()
            residual = delay(m, self.residual[i], 2, f"residual_{i}").as_signed()
            scaled = delay(m, residual * channels, 1, f"scaled_{i}").as_signed()
            operand = Signal(signed(OPERAND_BITS), name=f"operand_{i}", reset_less=True)
            with m.Switch(operation):
                with m.Case(NORM):
                    m.d.sync += operand.eq(scaled - total)
                with m.Case(*below):
                    m.d.sync += operand.eq(maximum - score)
                with m.Case(*scaled_row):
                    m.d.sync += operand.eq(score)
                with m.Default():
                    m.d.sync += operand.eq(score + bias)
            m.d.comb += self.operand[i].eq(operand)
            m.d.sync += [
                self.lane_multiplier[i].eq(Mux(own, lane_multiplier, multiplier)),
                self.lane_shift[i].eq(Mux(own, lane_shift, shift)),
            ]
        return m
