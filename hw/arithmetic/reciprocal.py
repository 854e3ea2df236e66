"""``1 / value`` as mantissa and exponent: table and one Newton step."""

from __future__ import annotations

from amaranth import Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay, look_up
from moesaic.spec import tables


def highest_bit(m: Module, value: Value, name: str) -> Signal:
    """Position of the highest set bit of ``value`` (0 if none), without a register."""
    position = Signal(range(max(2, len(value))), name=name)
    for bit in range(len(value)):
        with m.If(value[bit]):
            m.d.comb += position.eq(bit)
    return position


class Reciprocal(wiring.Component):
    """``1 / value = mantissa * 2**(-16 - exponent)``, latency ``LATENCY``, one per cycle.

    Parameters
    ----------
    bits
        Width of ``value``, 17 to 32; ``value`` is at least 1.

    Attributes
    ----------
    value
        Input.
    mantissa, exponent
        At most 65535; position of the input's highest bit.
    """

    LATENCY = 7

    def __init__(self, bits: int) -> None:
        if not 17 <= bits <= 32:
            raise ValueError(f"bits must be 17 to 32, not {bits!r}")
        self.bits = bits
        super().__init__({"value": In(bits), "mantissa": Out(16), "exponent": Out(range(bits))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value = delay(m, self.value, 1, "value")
        exponent = delay(m, highest_bit(m, self.value, "position"), 1, "exponent")
        # f in [1, 2) as Q1.16: the value's highest bit moved to bit 16, lower bits dropped.
        f = Signal(17, reset_less=True)
        aligned = Signal(self.bits)
        m.d.comb += aligned.eq(value << (Const(self.bits - 1) - exponent).as_unsigned())
        m.d.sync += f.eq(aligned >> self.bits - 17)
        index = f[16 - tables.RECIPROCAL_INDEX_BITS : 16]
        (guess,) = look_up(m, tables.RECIPROCAL_TABLE, [index], 16, "table")
        f = delay(m, f, 1, "f")
        product = Signal(33, reset_less=True)
        error = Signal(18, reset_less=True)
        refined = Signal(34, reset_less=True)
        m.d.sync += [
            product.eq(f * guess),
            error.eq((1 << 17) - (product >> 16)),
            refined.eq(delay(m, guess, 2, "guess") * error),
            self.mantissa.eq(Mux(refined[32:].any(), 65535, refined[16:32])),
        ]
        m.d.comb += self.exponent.eq(delay(m, exponent, self.LATENCY - 1, "exponent_out"))
        return m
