"""The sigmoid of a logit from 2**-x of its magnitude."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay, round_half
from moesaic.hw.arithmetic.reciprocal import Reciprocal
from moesaic.spec import tables
from moesaic.spec.formats import SIGMOID_FRACTION_BITS

_ONE = tables.EXP2_TABLE[0]
"""What a power of 1.0 is."""


class Sigmoid(wiring.Component):
    """``semantics.sigmoid_fine``: 1 or the power, over 1 and the power; one per cycle.

    Latency ``LATENCY`` cycles.

    Attributes
    ----------
    power
        255 * 256 * 2**-x of the logit's magnitude x in octaves.
    negative
        The logit is below 0.
    value
        ``SIGMOID_FRACTION_BITS`` fraction bits and no others; at least one step.
    """

    LATENCY = 1 + Reciprocal.LATENCY + 3

    def __init__(self) -> None:
        super().__init__({"power": In(16), "negative": In(1), "value": Out(SIGMOID_FRACTION_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total = Signal(17, reset_less=True)
        numerator = Signal(16, reset_less=True)
        m.d.sync += [
            total.eq(_ONE + self.power),
            numerator.eq(Mux(self.negative, self.power, _ONE)),
        ]
        m.submodules.reciprocal = reciprocal = Reciprocal(len(total))
        m.d.comb += reciprocal.value.eq(total)
        product, product_2 = Signal(32, reset_less=True), Signal(32, reset_less=True)
        m.d.sync += [
            product.eq(delay(m, numerator, Reciprocal.LATENCY, "numerator") * reciprocal.mantissa),
            product_2.eq(product),
        ]
        # The total is from 65,280 up, so its highest bit is 15 or 16. One bit is left for rounding.
        low = delay(m, ~reciprocal.exponent[4], 2, "low")
        shifted = Mux(low, product_2[14:], product_2[15:])
        rounded = round_half(shifted)
        # Both known from the value before rounding, not behind its carries.
        whole = SIGMOID_FRACTION_BITS + 1
        too_large = shifted[whole:].any() | shifted[:whole].all()
        nothing = ~shifted.any()
        largest = (1 << SIGMOID_FRACTION_BITS) - 1
        m.d.sync += self.value.eq(Mux(too_large, largest, rounded | nothing))
        return m
