"""``1 / sqrt(value)`` as mantissa and exponent: table and one Newton step."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay, look_up
from moesaic.hw.arithmetic.reciprocal import highest_bit
from moesaic.spec import tables

_F_BITS = 18
"""f in [1, 4) as Q2.16."""


class ReciprocalSqrt(wiring.Component):
    """``1 / sqrt(value) = mantissa * 2**(-16 - exponent)``, latency ``LATENCY``, one per cycle.

    Parameters
    ----------
    bits
        Width of ``value``, even, 18 to 62; ``value`` is at least 1.

    Attributes
    ----------
    value
        Input, ``f * 4**exponent`` with f in [1, 4).
    mantissa, exponent
        At most 65535; half the position of the input's highest bit.
    """

    LATENCY = 9

    def __init__(self, bits: int) -> None:
        if bits % 2 or not 18 <= bits <= 62:
            raise ValueError(f"bits must be even and 18 to 62, not {bits!r}")
        self.bits = bits
        super().__init__(
            {"value": In(bits), "mantissa": Out(16), "exponent": Out(range(bits // 2))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pairs = Cat(self.value[i : i + 2].any() for i in range(0, self.bits, 2))
        exponent = delay(m, highest_bit(m, pairs, "position"), 1, "exponent")
        value = delay(m, self.value, 1, "value")
        # Left shift by whole pairs until the highest pair is not 0, in two stages.
        pairs_left = Signal(5)
        m.d.comb += pairs_left.eq(Const(self.bits // 2 - 1) - exponent)
        coarse = Signal(self.bits, reset_less=True)
        low = delay(m, pairs_left[:3], 1, "low")
        fine = Signal(self.bits)
        m.d.sync += coarse.eq(value << Cat(Const(0, 4), pairs_left[3:]))
        m.d.comb += fine.eq(coarse << Cat(Const(0, 1), low))
        f = Signal(_F_BITS, reset_less=True)
        m.d.sync += f.eq(fine >> self.bits - _F_BITS)
        index = f[_F_BITS - tables.RSQRT_INDEX_BITS :]
        (guess,) = look_up(m, tables.RSQRT_TABLE, [index], 16, "table")

        square = Signal(32, reset_less=True)
        product = Signal(_F_BITS + 16, reset_less=True)
        error = Signal(18, reset_less=True)
        refined = Signal(34, reset_less=True)
        m.d.sync += [
            square.eq(guess * guess),
            product.eq(delay(m, f, 2, "f") * square[16:]),
            error.eq((3 << 16) - product[16:]),
            refined.eq(delay(m, guess, 3, "guess") * error),
            self.mantissa.eq(Mux(refined[33:].any(), 65535, refined[17:33])),
        ]
        m.d.comb += self.exponent.eq(delay(m, exponent, self.LATENCY - 1, "exponent_out"))
        return m
