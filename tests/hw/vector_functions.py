"""One design with every function unit of the vector unit, so that one build serves all benches."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from moesaic.hw.arithmetic.exp2 import Exp2
from moesaic.hw.arithmetic.reciprocal import Reciprocal
from moesaic.hw.arithmetic.reciprocal_sqrt import ReciprocalSqrt
from moesaic.hw.arithmetic.requantise import Requantise
from moesaic.hw.interfaces import TableWrite
from moesaic.hw.vector.activation import Activation, choice_layout
from moesaic.hw.vector.lanes import clamp_code
from moesaic.spec import tables

LANES = 16
OPERAND_BITS = 33
LIMITS = (8, 13, 16, 18, 24)
SUM_BITS = 24
VARIANCE_BITS = 58


class VectorFunctions(wiring.Component):
    """Function units side by side; ports are packed, lane 0 in the lowest bits.

    ``active_*`` is the unit of activations with the second requantiser and the offset behind it, as
    in the vector unit; ``active_wide`` is its 16-bit result.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "operand": In(LANES * OPERAND_BITS),
                "multiplier": In(LANES * 16),
                "shift": In(LANES * 6),
                "limit": In(3),
                "value": Out(LANES * max(LIMITS)),
                "table_write": In(TableWrite()),
                "active_choice": In(choice_layout().size),
                "active_z": In(LANES * tables.ACTIVATION_INPUT_BITS),
                "active_multiplier": In(16),
                "active_shift": In(6),
                "active_offset": In(8),
                "active_value": Out(LANES * 8),
                "active_wide": Out(LANES * 16),
                "exponent": In(LANES * tables.EXPONENT_BITS),
                "exponent_column": In(tables.DITHER_BITS),
                "exponent_valid": In(LANES),
                "probability": Out(LANES * 8),
                "sum": In(SUM_BITS),
                "sum_mantissa": Out(16),
                "sum_exponent": Out(5),
                "variance": In(VARIANCE_BITS),
                "variance_mantissa": Out(16),
                "variance_exponent": Out(5),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.requantise = requantise = Requantise(LANES, OPERAND_BITS, LIMITS)
        m.submodules.activation = activation = Activation(LANES)
        connect(m, flipped(self.table_write), activation.write)
        m.submodules.scale = scale = Requantise(LANES, tables.ACTIVATION_RESULT_BITS, (16,))
        m.submodules.exp2 = exp2 = Exp2(LANES)
        m.submodules.reciprocal = reciprocal = Reciprocal(SUM_BITS)
        m.submodules.root = root = ReciprocalSqrt(VARIANCE_BITS)
        z = Signal(data.ArrayLayout(signed(tables.ACTIVATION_INPUT_BITS), LANES))
        m.d.comb += [
            requantise.operand.eq(self.operand),
            requantise.multiplier.eq(self.multiplier),
            requantise.shift.eq(self.shift),
            requantise.limit.eq(self.limit),
            self.value.eq(requantise.value),
            z.eq(self.active_z),
            activation.z.eq(z),
            activation.choice.eq(self.active_choice),
            scale.operand.eq(activation.value),
            scale.multiplier.eq(self.active_multiplier.replicate(LANES)),
            scale.shift.eq(self.active_shift.replicate(LANES)),
            self.active_value.eq(
                Cat(clamp_code(value + self.active_offset) for value in scale.value)
            ),
            self.active_wide.eq(scale.value),
            exp2.exponent.eq(self.exponent),
            exp2.column.eq(self.exponent_column),
            exp2.valid.eq(self.exponent_valid),
            self.probability.eq(exp2.value),
            reciprocal.value.eq(self.sum),
            self.sum_mantissa.eq(reciprocal.mantissa),
            self.sum_exponent.eq(reciprocal.exponent),
            root.value.eq(self.variance),
            self.variance_mantissa.eq(root.mantissa),
            self.variance_exponent.eq(root.exponent),
        ]
        return m
