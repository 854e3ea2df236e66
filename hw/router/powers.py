"""2**-x of distances between logits: one half of a softmax, and of a sigmoid."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay, look_up, round_half
from moesaic.hw.arithmetic.requantise import Requantise
from moesaic.spec import tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import LOGIT_BITS, MULTIPLIER_BITS, SHIFT_BITS
from moesaic.spec.parts import factor_bits


class Powers(wiring.Component):
    """255 * 256 * 2**-x of every lane's distance, rounded to integers.

    Latency ``LATENCY`` cycles: requantise, table, shift, round.

    Attributes
    ----------
    distance
        From 0 up; straight from registers.
    present
        Lanes whose power counts; that of the others is 0.
    multiplier, shift
        Distance to 2**-7 octaves.
    power
        Results.
    """

    LATENCY = Requantise.LATENCY + 3

    def __init__(self, arch: ArchConfig, lanes: int) -> None:
        self.arch, self.lanes = arch, lanes
        super().__init__(
            {
                "distance": In(data.ArrayLayout(LOGIT_BITS, lanes)),
                "present": In(lanes),
                "multiplier": In(MULTIPLIER_BITS),
                "shift": In(SHIFT_BITS),
                "power": Out(data.ArrayLayout(16, lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        m.submodules.exponent = scale = Requantise(
            lanes,
            operand_bits=LOGIT_BITS + 1,
            limits=(tables.EXPONENT_BITS + 1,),
            factors=factor_bits(self.arch.device),
        )
        for i in range(lanes):
            m.d.comb += [
                scale.operand[i].eq(Cat(self.distance[i], Const(0, 1)).as_signed()),
                scale.multiplier[i].eq(self.multiplier),
                scale.shift[i].eq(self.shift),
            ]
        fraction = tables.EXP2_FRACTION_BITS
        exponents = [scale.value[i][: tables.EXPONENT_BITS] for i in range(lanes)]
        mantissas = look_up(m, tables.EXP2_TABLE, [e[:fraction] for e in exponents], 16, "exp2")
        counts = delay(m, self.present, Requantise.LATENCY + 2, "present", control=True)
        for i, (mantissa, exponent) in enumerate(zip(mantissas, exponents, strict=True)):
            octaves = delay(m, exponent[fraction:], 1, f"octaves_{i}")
            shifted = Signal(17, name=f"shifted_{i}", reset_less=True)
            power = Signal(16, name=f"power_{i}", reset_less=True)
            m.d.sync += [
                shifted.eq(Cat(Const(0, 1), mantissa) >> octaves),
                power.eq(Mux(counts[i], round_half(shifted), 0)),
            ]
            m.d.comb += self.power[i].eq(power)
        return m
