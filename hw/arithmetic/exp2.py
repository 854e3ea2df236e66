"""Un-normalised softmax probabilities: ``255 * 2**(-exponent / 128)``, rounded to uint8."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay, look_up, round_half
from moesaic.spec import tables
from moesaic.spec.formats import PROBABILITY_BITS

_POINT = 8
"""Fraction bits of the table."""


class Exp2(wiring.Component):
    """Table mantissa, shifted by the whole octaves and rounded. Latency ``LATENCY`` cycles.

    Attributes
    ----------
    exponent
        Steps of 2**-7 octave, already limited to ``EXPONENT_BITS`` bits.
    valid
        With the exponents; a lane that is not valid gives 0.
    value
        0 to 255; exponent 0 gives 255.
    """

    LATENCY = 3

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(
            {
                "exponent": In(data.ArrayLayout(tables.EXPONENT_BITS, lanes)),
                "valid": In(lanes),
                "value": Out(data.ArrayLayout(PROBABILITY_BITS, lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fraction_bits = tables.EXP2_FRACTION_BITS
        addresses = [self.exponent[i][:fraction_bits] for i in range(self.lanes)]
        mantissas = look_up(m, tables.EXP2_TABLE, addresses, 16, "table")
        valid = delay(m, self.valid, 2, "valid")
        for i, mantissa in enumerate(mantissas):
            octaves = delay(m, self.exponent[i][fraction_bits:], 1, f"octaves_{i}")
            shifted = Signal(16 - _POINT + 1, name=f"shifted_{i}", reset_less=True)
            value = Signal(PROBABILITY_BITS, name=f"value_{i}", reset_less=True)
            # One bit below the result survives the shift; it is the rounding bit.
            m.d.sync += shifted.eq(mantissa[_POINT - 1 :] >> octaves)
            with m.If(valid[i]):
                m.d.sync += value.eq(round_half(shifted))
            with m.Else():
                m.d.sync += value.eq(0)
            m.d.comb += self.value[i].eq(value)
        return m
