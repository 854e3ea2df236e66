"""``saturate(round_shift(operand * multiplier, shift))`` for all lanes at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import clamp, delay, round_half
from moesaic.hw.arithmetic.product import wide_product
from moesaic.spec.formats import MULTIPLIER_BITS, SHIFT_BITS


class Requantise(wiring.Component):
    """Multiply, shift right with rounding half up, saturate; one set of lanes per cycle.

    Latency ``LATENCY`` cycles: product (2 registers: blocks, their sum), coarse shift,
    fine shift, rounding, saturation. One fraction bit is kept through the shift, so the rounding
    constant needs no shifter of its own; shifts from the operand's width plus 16 upwards give 0.

    Parameters
    ----------
    lanes
        Values per cycle.
    operand_bits
        Width of the signed operands, at most 46.
    limits
        Signed widths that results can be saturated to.

    Attributes
    ----------
    operand, multiplier, shift
        Inputs of each lane; multiplier 0 to 65535, shift 0 to 63.
    limit
        Index into ``limits``, with the operands.
    value
        Results.
    """

    LATENCY = 6

    def __init__(self, lanes: int, operand_bits: int, limits: Sequence[int]) -> None:
        if operand_bits > 46:
            raise ValueError(f"operand_bits must be at most 46, not {operand_bits!r}")
        self.lanes, self.operand_bits, self.limits = lanes, operand_bits, tuple(limits)
        super().__init__(
            {
                "operand": In(data.ArrayLayout(signed(operand_bits), lanes)),
                "multiplier": In(data.ArrayLayout(MULTIPLIER_BITS, lanes)),
                "shift": In(data.ArrayLayout(SHIFT_BITS, lanes)),
                "limit": In(range(len(self.limits))),
                "value": Out(data.ArrayLayout(signed(max(self.limits)), lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # One bit for each limit, decoded before it has to reach every lane.
        chosen = [
            delay(m, self.limit == index, 5, f"limit_{index}") for index in range(len(self.limits))
        ]
        product_shape = signed(self.operand_bits + MULTIPLIER_BITS)
        doubled_shape = signed(self.operand_bits + MULTIPLIER_BITS + 1)

        def register(shape: object, name: str) -> Signal:
            return Signal(shape, name=name, reset_less=True)

        for i in range(self.lanes):
            coarse = register(doubled_shape, f"coarse_{i}")
            fine = register(doubled_shape, f"fine_{i}")
            rounded = register(product_shape, f"rounded_{i}")
            value = register(signed(max(self.limits)), f"value_{i}")
            product = wide_product(m, self.operand[i], self.multiplier[i], 2, f"product_{i}")
            high = delay(m, self.shift[i][4:], 2, f"shift_high_{i}")
            low = delay(m, self.shift[i][:4], 3, f"shift_low_{i}")
            m.d.sync += [
                coarse.eq(Cat(Const(0, 1), product).as_signed() >> Cat(Const(0, 4), high)),
                fine.eq(coarse >> low),
                rounded.eq(round_half(fine)),
            ]
            clamped = (
                Mux(one, clamp(rounded, bits).as_signed(), 0)
                for one, bits in zip(chosen, self.limits, strict=True)
            )
            m.d.sync += value.eq(reduce(or_, clamped))
            m.d.comb += self.value[i].eq(value)
        return m
