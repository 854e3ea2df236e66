"""GELU as ReLU minus a small even table: ``gelu(z) = relu(z) - delta(|z|)``."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay, look_up
from moesaic.spec import tables

INDEX_SHIFT = tables.GELU_INPUT_FRACTION_BITS - tables.GELU_STEP_LOG2
"""Bits of |z| below the table index: the interpolation fraction."""
OUTPUT_SHIFT = tables.GELU_OUTPUT_FRACTION_BITS - tables.GELU_INPUT_FRACTION_BITS
GELU_OUTPUT_BITS = tables.GELU_INPUT_BITS + OUTPUT_SHIFT
_LAST = tables.GELU_ENTRIES - 1
_BEYOND = _LAST << INDEX_SHIFT
_VALUE_BITS = max(tables.GELU_TABLE).bit_length()
_SLOPES = tuple(b - a for a, b in zip(tables.GELU_TABLE[:-1], tables.GELU_TABLE[1:], strict=True))
_SLOPE_BITS = 1 + max(max(abs(slope), abs(slope + 1)).bit_length() for slope in _SLOPES)
_ENTRIES = (
    *(
        (slope & (1 << _SLOPE_BITS) - 1) << _VALUE_BITS | value
        for value, slope in zip(tables.GELU_TABLE[:-1], _SLOPES, strict=True)
    ),
    0,  # from the last entry on, delta is 0
)
GELU_TABLE_BITS = len(_ENTRIES) * (_VALUE_BITS + _SLOPE_BITS)
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
        addresses = []
        fractions = []
        for i in range(self.lanes):
            magnitude = Signal(tables.GELU_INPUT_BITS, name=f"magnitude_{i}")
            address = Signal(range(len(_ENTRIES)), name=f"address_{i}", reset_less=True)
            fraction = Signal(INDEX_SHIFT, name=f"fraction_{i}", reset_less=True)
            index = magnitude[INDEX_SHIFT:]
            m.d.comb += magnitude.eq(Mux(self.z[i] < 0, -self.z[i], self.z[i]))
            beyond = (self.z[i] >= _BEYOND) | (self.z[i] <= -_BEYOND)
            m.d.sync += [
                address.eq(Mux(beyond, _LAST, index)),
                fraction.eq(magnitude),
            ]
            addresses.append(address)
            fractions.append(fraction)
        entries = look_up(m, _ENTRIES, addresses, _VALUE_BITS + _SLOPE_BITS, "table")
        for i, entry in enumerate(entries):
            low, slope = entry[:_VALUE_BITS], entry[_VALUE_BITS:].as_signed()
            bits = _VALUE_BITS + INDEX_SHIFT + 2
            product = Signal(signed(bits), name=f"product_{i}", reset_less=True)
            rounded = Signal(signed(bits), name=f"rounded_{i}", reset_less=True)
            value = Signal(signed(GELU_OUTPUT_BITS), name=f"value_{i}", reset_less=True)
            fraction = delay(m, fractions[i], 1, f"fraction_{i}")
            z = delay(m, self.z[i], 3, f"z_{i}")
            relu = Mux(z[-1], 0, z[:-1])
            fine = (rounded + product)[:bits].as_signed()
            m.d.sync += [
                product.eq(slope * fraction),
                rounded.eq((low << INDEX_SHIFT) + (1 << INDEX_SHIFT - 1)),
                value.eq((relu << OUTPUT_SHIFT) - (fine >> INDEX_SHIFT)),
            ]
            m.d.comb += self.value[i].eq(value)
        return m
