"""``saturate(round_shift(operand * multiplier, shift))`` for all lanes at once."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay, round_half
from moesaic.hw.arithmetic.product import wide_product
from moesaic.spec.formats import MULTIPLIER_BITS, SHIFT_BITS
from moesaic.spec.parts import FACTOR_BITS


def _rounds_beyond(doubled: Value, bits: int) -> Value:
    """Whether ``round_half(doubled)`` needs more than ``bits`` signed bits.

    It does not if the bits above are equal, which they become if rounding carries into them.
    """
    low, high = doubled[:bits], doubled[bits:]
    return Mux(low.all(), ~high[1:].all(), high.any() & ~high.all())


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
        Width of the signed operands, at most 46 (35 on ECP5).
    limits
        Signed widths that results can be saturated to.
    factors
        Of a multiplier block; two must do for an operand.

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

    def __init__(
        self,
        lanes: int,
        operand_bits: int,
        limits: Sequence[int],
        factors: tuple[int, int] = FACTOR_BITS["xcup"],
    ) -> None:
        # A shift of up to 63 and the multiplier's 16 bits bound it too.
        most = min(46, 2 * factors[0] - 1)
        if operand_bits > most:
            raise ValueError(f"operand_bits must be at most {most}, not {operand_bits!r}")
        self.lanes, self.operand_bits, self.limits = lanes, operand_bits, tuple(limits)
        self.factors = factors
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
        # One bit for each limit, decoded before it has to reach every lane; and which bits of the
        # largest value of that limit are set.
        chosen = [
            delay(m, self.limit == index, 4, f"limit_{index}") for index in range(len(self.limits))
        ]
        below_top = Signal(max(self.limits), reset_less=True)
        for bit in range(len(below_top)):
            m.d.sync += below_top[bit].eq(
                Cat(
                    one for one, bits in zip(chosen, self.limits, strict=True) if bit < bits - 1
                ).any()
            )
        product_shape = signed(self.operand_bits + MULTIPLIER_BITS)
        doubled_shape = signed(self.operand_bits + MULTIPLIER_BITS + 1)

        def register(shape: object, name: str) -> Signal:
            return Signal(shape, name=name, reset_less=True)

        for i in range(self.lanes):
            coarse = register(doubled_shape, f"coarse_{i}")
            fine = register(doubled_shape, f"fine_{i}")
            rounded = register(product_shape, f"rounded_{i}")
            value = register(signed(max(self.limits)), f"value_{i}")
            product = wide_product(
                m, self.operand[i], self.multiplier[i], 2, f"product_{i}", self.factors
            )
            high = delay(m, self.shift[i][4:], 2, f"shift_high_{i}")
            low = delay(m, self.shift[i][:4], 3, f"shift_low_{i}")
            m.d.sync += [
                coarse.eq(Cat(Const(0, 1), product).as_signed() >> Cat(Const(0, 4), high)),
                fine.eq(coarse >> low),
                rounded.eq(round_half(fine)),
            ]
            # Beyond the limit or not is known from the value before rounding.
            beyond, negative = register(1, f"beyond_{i}"), register(1, f"negative_{i}")
            m.d.sync += [
                beyond.eq(
                    Cat(
                        one & _rounds_beyond(fine, bits)
                        for one, bits in zip(chosen, self.limits, strict=True)
                    ).any()
                ),
                negative.eq(fine[-1]),
            ]
            extreme = Cat(negative ^ below for below in below_top)
            m.d.sync += value.eq(Mux(beyond, extreme.as_signed(), rounded))
            m.d.comb += self.value[i].eq(value)
        return m
