"""Un-normalised softmax probabilities: ``255 * 2**(-exponent / 128)``, dithered to uint8."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay, look_up
from moesaic.spec import tables
from moesaic.spec.formats import PROBABILITY_BITS

MANTISSA_BITS = PROBABILITY_BITS + tables.DITHER_BITS


class Exp2(wiring.Component):
    """Table mantissa, shifted by the whole octaves and rounded at its column's threshold.

    The threshold is the column's bits in reverse order: those of the lane, a constant, above those
    of the chunk. Latency ``LATENCY`` cycles.

    Parameters
    ----------
    lanes
        Columns per cycle, a power of two.

    Attributes
    ----------
    exponent
        Steps of 2**-7 octave, already limited to ``EXPONENT_BITS`` bits.
    column
        Column of lane 0 within its row, a multiple of ``lanes``, with the exponents.
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
                "column": In(tables.DITHER_BITS),
                "valid": In(lanes),
                "value": Out(data.ArrayLayout(PROBABILITY_BITS, lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fraction_bits = tables.EXP2_FRACTION_BITS
        addresses = [self.exponent[i][:fraction_bits] for i in range(self.lanes)]
        mantissas = look_up(m, tables.EXP2_TABLE, addresses, MANTISSA_BITS, "table")
        valid = delay(m, self.valid, 2, "valid")
        lane_bits = min((self.lanes - 1).bit_length(), tables.DITHER_BITS)
        chunk = delay(m, self.column[lane_bits:], 2, "chunk")
        for i, mantissa in enumerate(mantissas):
            octaves = delay(m, self.exponent[i][fraction_bits:], 1, f"octaves_{i}")
            fine = Signal(MANTISSA_BITS, name=f"fine_{i}", reset_less=True)
            value = Signal(PROBABILITY_BITS, name=f"value_{i}", reset_less=True)
            column = Cat(Const(i, lane_bits), chunk)
            threshold = Cat(column[bit] for bit in reversed(range(tables.DITHER_BITS)))
            m.d.sync += fine.eq(mantissa >> octaves)
            with m.If(valid[i]):
                m.d.sync += value.eq((fine + threshold) >> tables.DITHER_BITS)
            with m.Else():
                m.d.sync += value.eq(0)
            m.d.comb += self.value[i].eq(value)
        return m
