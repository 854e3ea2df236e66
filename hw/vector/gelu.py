"""GELU as ReLU minus a small even table: ``gelu(z) = relu(z) - delta(|z|)``."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay, look_up
from moesaic.spec import tables

INDEX_SHIFT = tables.GELU_INPUT_FRACTION_BITS - tables.GELU_STEP_LOG2
"""Bits of |z| below the table index: the interpolation fraction."""
OUTPUT_SHIFT = tables.GELU_OUTPUT_FRACTION_BITS - tables.GELU_INPUT_FRACTION_BITS
GELU_OUTPUT_BITS = tables.GELU_INPUT_BITS + OUTPUT_SHIFT
_VALUE_BITS = max(tables.GELU_TABLE).bit_length()
_SLOPES = tuple(b - a for a, b in zip(tables.GELU_TABLE[:-1], tables.GELU_TABLE[1:], strict=True))
_SLOPE_BITS = 1 + max(max(abs(slope), abs(slope + 1)).bit_length() for slope in _SLOPES)
_HALF = 1 << (len(_SLOPES) - 1).bit_length() - 1
_HIGH_BITS = max(tables.GELU_TABLE[_HALF:-1]).bit_length()
if not {0, -1}.issuperset(_SLOPES[_HALF:]):
    raise AssertionError("slopes of the upper half must be 0 or -1")
GELU_TABLE_BITS = len(_SLOPES) * (_VALUE_BITS + _SLOPE_BITS)
"""Bits of storage of one lane's table: value and slope of every segment."""


class Gelu(wiring.Component):
    """``relu(z) - delta(|z|)`` with ``GELU_OUTPUT_FRACTION_BITS`` fraction bits.

    Latency ``LATENCY`` cycles, one set of lanes per cycle. The multiplication by the output scale
    follows in the unit's second requantiser. One small multiplier per lane interpolates.

    Attributes
    ----------
    z
        Signed ``GELU_INPUT_BITS`` bits, ``GELU_INPUT_FRACTION_BITS`` of them fraction.
    value
        Signed ``GELU_OUTPUT_BITS`` bits.
    """

    LATENCY = 4

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(
            {
                "z": In(data.ArrayLayout(signed(tables.GELU_INPUT_BITS), lanes)),
                "value": Out(data.ArrayLayout(signed(GELU_OUTPUT_BITS), lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        indices = []
        fractions = []
        for i in range(self.lanes):
            magnitude = Signal(tables.GELU_INPUT_BITS, name=f"magnitude_{i}")
            index = Signal(len(magnitude) - INDEX_SHIFT, name=f"index_{i}", reset_less=True)
            fraction = Signal(INDEX_SHIFT, name=f"fraction_{i}", reset_less=True)
            m.d.comb += magnitude.eq(Mux(self.z[i] < 0, -self.z[i], self.z[i]))
            m.d.sync += [index.eq(magnitude[INDEX_SHIFT:]), fraction.eq(magnitude)]
            indices.append(index)
            fractions.append(fraction)
        # Most of the table is in its lower half, addressed by a bit less. Of the upper half a few
        # bits remain, and a slope that needs no multiplier.
        bits = _VALUE_BITS + INDEX_SHIFT + 2
        inside_bits = _HALF.bit_length() - 1
        inside = [index[:inside_bits] for index in indices]
        slopes_below = [slope & (1 << _SLOPE_BITS) - 1 for slope in _SLOPES[:_HALF]]
        falls_above = [int(slope < 0) for slope in _SLOPES[_HALF:]]
        low_values = look_up(m, tables.GELU_TABLE[:_HALF], inside, _VALUE_BITS, "low_values")
        high_values = look_up(m, tables.GELU_TABLE[_HALF:-1], inside, _HIGH_BITS, "high_values")
        slopes = look_up(m, slopes_below, inside, _SLOPE_BITS, "slopes", registered=False)
        falls = look_up(m, falls_above, inside, 1, "falls")
        for i, index in enumerate(indices):
            upper, beyond = Signal(name=f"upper_{i}"), Signal(name=f"beyond_{i}", reset_less=True)
            m.d.comb += upper.eq(index[inside_bits:].any())
            slope = Signal(signed(_SLOPE_BITS), name=f"slope_{i}", reset_less=True)
            m.d.sync += [slope.eq(Mux(upper, 0, slopes[i])), beyond.eq(index >= len(_SLOPES))]
            in_upper = delay(m, upper, 1, f"in_upper_{i}")
            fraction = delay(m, fractions[i], 1, f"fraction_{i}")
            low = Mux(in_upper, Mux(beyond, 0, high_values[i]), low_values[i])
            fall = Mux(in_upper & ~beyond & falls[i], fraction, 0)
            product = Signal(signed(bits), name=f"product_{i}", reset_less=True)
            rounded = Signal(signed(bits), name=f"rounded_{i}", reset_less=True)
            value = Signal(signed(GELU_OUTPUT_BITS), name=f"value_{i}", reset_less=True)
            z = delay(m, self.z[i], 3, f"z_{i}")
            relu = Mux(z[-1], 0, z[:-1])
            fine = (rounded + product)[:bits].as_signed()
            m.d.sync += [
                product.eq(slope * fraction),
                rounded.eq(Cat(Const(1 << INDEX_SHIFT - 1, INDEX_SHIFT), low) - fall),
                value.eq((relu << OUTPUT_SHIFT) - (fine >> INDEX_SHIFT)),
            ]
            m.d.comb += self.value[i].eq(value)
        return m
