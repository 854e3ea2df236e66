"""The lane pipeline: a chunk enters with its operands and leaves with its results."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.arithmetic.exp2 import Exp2
from moesaic.hw.arithmetic.pipeline import clamp, delay, round_half, taps
from moesaic.hw.arithmetic.requantise import Requantise
from moesaic.hw.interfaces import TableWrite
from moesaic.hw.vector.activation import Activation, choice_layout
from moesaic.hw.vector.addressing import Addressing
from moesaic.hw.vector.angles import Angles
from moesaic.hw.vector.operands import OPERAND_BITS, Operands
from moesaic.hw.vector.operation import (
    LIMITS,
    NORM,
    SPLIT_KINDS,
    check_implemented,
    is_any,
    issue_layout,
    kinds_of,
)
from moesaic.hw.vector.output import CHUNK_BITS
from moesaic.spec import tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.drains import DRAINS, Function
from moesaic.spec.formats import (
    GATE_BITS,
    GATE_FRACTION_BITS,
    HIDDEN_BITS,
    MULTIPLIER_BITS,
    PROBABILITY_BITS,
    RESIDUAL_BITS,
    RESIDUAL_GUARD_BITS,
    SHIFT_BITS,
    UINT8_BITS,
)
from moesaic.spec.parts import factor_bits

FUNCTIONS = (Function.NONE, Function.ACTIVATION, Function.UPDATE, Function.EXPONENTIAL)
"""What the lanes can do behind the first requantisation."""
RESIDUAL_SHIFT = GATE_FRACTION_BITS + RESIDUAL_GUARD_BITS
"""Q15 weight, and the guard bits of an addend."""


def clamp_code(total: Value) -> Value:
    """``total``, a value and an offset, clamped to uint8: the code of a hidden activation.

    The value has been saturated to ``HIDDEN_BITS`` bits, which changes no code: what is cut off is
    beyond +-32767, and with any offset of 0 to 255 the code is 255 or 0 from +-255 on.
    """
    high = total[UINT8_BITS:-1].any()
    return Mux(total[-1], 0, Mux(high, (1 << UINT8_BITS) - 1, total[:UINT8_BITS]))


class Lanes(wiring.Component):
    """Everything from the first multiplication on. Never stops; all operations take equally long.

    Cycles are counted from the issue: operands at 5, requantised at 11 (softmax exponents; 16-bit
    results split into their planes at 12; probabilities at 14), second multiplication 17 to 23
    (activations by their output scale or by the other chunk of their pair, residual addends by
    their gate weight, both chunks of a rotated pair by its cosine and its sine), results at
    ``RESULT``. RESIDUAL reads the old value at 21 and writes at ``WRITTEN``; a rotation reads its
    angle at ``ANGLE``.

    Attributes
    ----------
    issue
        The chunk, in the cycle of its issue.
    multiplier, shift, offset, wide
        Second requantisation of activations, and whether a drain gives 16 bits, or NORM planes,
        with the issue.
    choice
        Function of an activation, with the issue.
    table_write
        New entries of activation tables.
    weight
        Gate weight, 1 cycle after the issue.
    residual_address
        Residual word, 4 cycles after the issue.
    angle_address
        Residual word of cosines or sines, ``Angles.LATENCY`` cycles after the issue.
    operand, lane_multiplier, lane_shift, limit
        From ``Operands``, 5 cycles after the issue.
    read, read_address, read_data
        Port to the residual memory, latency 1; ``read`` asks for it.
    write, write_address, write_data
        Port to the residual memory.
    probability
        For the row sums, ``PROBABILITY`` cycles after the issue.
    chunk, chunk_put
        Results for the output stage.
    """

    PROBABILITY = Operands.LATENCY + Requantise.LATENCY + Exp2.LATENCY
    SECOND = Operands.LATENCY + Requantise.LATENCY + Activation.LATENCY + 1
    RESULT = SECOND + Requantise.LATENCY + 2
    WRITTEN = RESULT
    ANGLE = SECOND - 3
    """Cycle in which a rotation reads, ``SECOND`` being that of the factor that comes of it."""
    HAZARD = 5
    """A residual word can be read again so many cycles after the issue that wrote it."""

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        lanes, address = arch.lanes, range(arch.residual_words)
        word = data.ArrayLayout(signed(RESIDUAL_BITS), lanes)
        super().__init__(
            {
                "issue": In(issue_layout(arch)),
                "multiplier": In(MULTIPLIER_BITS),
                "shift": In(SHIFT_BITS),
                "offset": In(UINT8_BITS),
                "wide": In(1),
                "choice": In(choice_layout()),
                "table_write": In(TableWrite()),
                "weight": In(GATE_BITS),
                "residual_address": In(address),
                "angle_address": In(address),
                "operand": In(data.ArrayLayout(signed(OPERAND_BITS), lanes)),
                "lane_multiplier": In(data.ArrayLayout(MULTIPLIER_BITS, lanes)),
                "lane_shift": In(data.ArrayLayout(SHIFT_BITS, lanes)),
                "limit": In(range(len(LIMITS))),
                "read": Out(1),
                "read_address": Out(address),
                "read_data": In(word),
                "write": Out(1),
                "write_address": Out(address),
                "write_data": Out(word),
                "probability": Out(data.ArrayLayout(PROBABILITY_BITS, lanes)),
                "chunk": Out(data.ArrayLayout(CHUNK_BITS, lanes)),
                "chunk_put": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        check_implemented("Lanes", [each.function for each in DRAINS.values()], FUNCTIONS)
        count = self.arch.lanes
        factors = factor_bits(self.arch.device)
        m.submodules.first = first = Requantise(count, OPERAND_BITS, LIMITS, factors)
        m.submodules.activation = activation = Activation(count)
        connect(m, flipped(self.table_write), activation.write)
        m.submodules.exp2 = exp2 = Exp2(count)
        m.submodules.second = second = Requantise(
            count, CHUNK_BITS, (HIDDEN_BITS, CHUNK_BITS), factors
        )
        operation = taps(m, self.issue.operation, self.RESULT, "operation")
        # What chooses in every lane is decoded a cycle before.
        is_activation, is_exponential, is_update = (
            is_any(self.issue.operation, kinds_of(function))
            for function in (Function.ACTIVATION, Function.EXPONENTIAL, Function.UPDATE)
        )
        active_at = taps(m, is_activation, self.RESULT, "is_activation")
        softmax_at = taps(m, is_exponential, self.PROBABILITY, "is_softmax")
        requantised = Operands.LATENCY + Requantise.LATENCY
        valid_lanes = delay(m, self.issue.lanes, requantised, "lanes")

        # The second factor of ACTIVATION and RESIDUAL, long before it is needed.
        rotary_at = taps(m, self.issue.rotary, self.RESULT - 1, "rotary")
        factor = Mux(active_at[1], delay(m, self.multiplier, 1, "multiplier"), self.weight)
        by_field = active_at[1] | rotary_at[1]
        distance = Mux(by_field, delay(m, self.shift, 1, "shift"), RESIDUAL_SHIFT)
        offset = delay(m, self.offset, self.RESULT - 2, "offset")
        wide = taps(m, self.wide, self.RESULT - 1, "wide")
        may_be_wide = operation[requantised].matches(*SPLIT_KINDS, NORM)
        in_planes = may_be_wide & wide[requantised] & ~rotary_at[requantised]
        factor = delay(m, factor, self.SECOND - 2, "factor")
        distance = delay(m, distance, self.SECOND - 1, "distance")
        holds = delay(m, self.issue.holds, self.SECOND - 1, "holds")
        paired = delay(m, self.issue.paired, self.SECOND - 1, "paired")
        rotary = rotary_at[self.SECOND - 1]
        backwards = delay(
            m, self.issue.second & ~self.issue.again, self.SECOND - 1, "backwards"
        )  # the first result takes the product of the second chunk and the sine away
        m.d.comb += [
            first.operand.eq(self.operand),
            first.multiplier.eq(self.lane_multiplier),
            first.shift.eq(self.lane_shift),
            first.limit.eq(self.limit),
            exp2.column.eq(
                delay(m, self.issue.column[: tables.DITHER_BITS], requantised, "column")
            ),
            exp2.valid.eq(valid_lanes[:count]),
            activation.choice.eq(delay(m, self.choice, requantised, "choice")),
            second.shift.eq(distance.replicate(count)),
            second.limit.eq(~active_at[self.SECOND]),
            self.probability.eq(exp2.value),
        ]
        # That there is a chunk comes late in the cycle of its issue: the rest of it a cycle later.
        valid = delay(m, self.issue.valid, 1, "valid", control=True)
        updates = delay(m, ~self.issue.null & is_update, 1, "updates")
        update = [Const(0), *taps(m, valid & updates, self.WRITTEN - 1, "update", control=True)]
        address = taps(m, self.residual_address, self.WRITTEN - Addressing.LATENCY, "address")
        summed = self.SECOND + Requantise.LATENCY
        rotates = [Const(0), *taps(m, valid & rotary_at[1], summed - 1, "rotates", control=True)]
        # Whether and where to read is known a cycle before: the memory is far.
        read_at = self.WRITTEN - 4 - 1
        angle = delay(m, self.angle_address, self.ANGLE - 1 - Angles.LATENCY, "angle_address")
        m.d.sync += [
            self.read.eq(update[read_at] | rotates[self.ANGLE - 1]),
            self.read_address.eq(
                Mux(
                    rotates[self.ANGLE - 1],
                    angle,
                    address[read_at - Addressing.LATENCY],
                )
            ),
        ]
        adds = update[summed] | rotates[summed]
        closes = delay(m, self.issue.rotary & self.issue.second, summed, "closes")
        opens = delay(m, self.issue.rotary & ~self.issue.second, summed, "opens")
        half = Cat(Const(0, 7), opens & ~wide[summed])  # of an int8 result's step
        m.d.comb += [
            self.write.eq(update[self.WRITTEN]),
            self.write_address.eq(address[self.WRITTEN - Addressing.LATENCY]),
            self.chunk_put.eq(
                delay(
                    m,
                    valid & delay(m, self.issue.put, 1, "put"),
                    self.RESULT - 1,
                    "chunk_put",
                    control=True,
                )
            ),
        ]
        for i in range(count):
            value = first.value[i]
            m.d.comb += [
                activation.z[i].eq(value[: tables.ACTIVATION_INPUT_BITS]),
                exp2.exponent[i].eq(value[: tables.EXPONENT_BITS]),
            ]
            # One line carries all other results past the units that they do not need.
            int8 = clamp(round_half(value[7:RESIDUAL_BITS].as_signed()), 8)
            line: Value = self._register(
                m,
                Mux(in_planes, Cat(int8, value[:RESIDUAL_BITS]), value),
                f"split_{i}",
            )
            line = delay(m, line, self.PROBABILITY - requantised - 1, f"narrow_{i}")
            line = self._register(
                m,
                Mux(softmax_at[self.PROBABILITY], exp2.value[i], line),
                f"line_{i}",
            )
            line = delay(m, line, self.SECOND - 2 - self.PROBABILITY, f"aligned_{i}")
            # The first chunk of a pair waits for the second one, as sign and magnitude.
            sign, magnitude = Signal(name=f"sign_{i}"), Signal(HIDDEN_BITS, name=f"magnitude_{i}")
            held = line[:HIDDEN_BITS].as_signed()
            with m.If(holds):
                m.d.sync += [sign.eq(held[-1]), magnitude.eq(Mux(held[-1], -held, held))]
            old = delay(m, self.read_data[i], 1, f"old_{i}").as_signed()
            operand = Mux(active_at[self.SECOND - 1], activation.value[i], line.as_signed())
            negated = Mux(rotary, old[-1] ^ backwards, paired & sign)
            # The sign goes into the carry: a negation and a choice would be longer.
            operand = (operand ^ negated.replicate(CHUNK_BITS).as_signed()) + negated
            multiplier = Signal(MULTIPLIER_BITS, name=f"multiplier_{i}", reset_less=True)
            m.d.sync += multiplier.eq(Mux(rotary, old[:-1], Mux(paired, magnitude, factor)))
            m.d.comb += [
                second.operand[i].eq(self._register(m, operand, f"second_{i}")),
                second.multiplier[i].eq(multiplier),
            ]
            line = delay(m, line, 2 + Requantise.LATENCY, f"result_{i}")
            hidden = second.value[i][:HIDDEN_BITS].as_signed()
            planes = Cat(Const(0, 8), hidden)  # where NORM has its low and its high plane
            shifted = Signal(signed(HIDDEN_BITS + 1), name=f"shifted_{i}", reset_less=True)
            m.d.sync += shifted.eq(hidden + offset)
            code = clamp_code(shifted)
            result = Mux(wide[-1], delay(m, planes, 1, f"planes_{i}"), code)
            # A residual value and its addend, or two products: those of the first chunk wait.
            sum_ = Signal(signed(CHUNK_BITS + 2), name=f"sum_{i}", reset_less=True)
            waiting = Signal(signed(CHUNK_BITS + 1), name=f"waiting_{i}", reset_less=True)
            # One gate a bit in front of the carries, whose choices are registers.
            addend = Mux(closes, waiting, 0) | Mux(rotary_at[summed], 0, old) | half
            with m.If(adds):
                m.d.sync += [waiting.eq(sum_), sum_.eq(addend + second.value[i])]
            total = clamp(sum_, RESIDUAL_BITS)
            rotated = Cat(total[8:], total)  # int8, or the two planes
            m.d.sync += [
                self.write_data[i].eq(total),
                self.chunk[i].eq(
                    Mux(
                        active_at[self.RESULT - 1],
                        result,
                        Mux(rotary_at[self.RESULT - 1], rotated, line),
                    )
                ),
            ]
        return m

    @staticmethod
    def _register(m: Module, value: Value, name: str) -> Value:
        register = Signal(CHUNK_BITS, name=name, reset_less=True)
        m.d.sync += register.eq(value)
        return register
