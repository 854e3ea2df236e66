"""Gate weights: softmax or sigmoids of logits, in fixed latency behind the choice of experts."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import add_tree, delay, round_half, tree_latency
from moesaic.hw.arithmetic.reciprocal import Reciprocal
from moesaic.hw.router.powers import Powers
from moesaic.hw.router.selector import choice_layout, group_layout
from moesaic.hw.router.sigmoid import Sigmoid
from moesaic.spec.arch import ROUTER_LANES, ArchConfig
from moesaic.spec.formats import (
    CORRECTION_BITS,
    GATE_BITS,
    LOGIT_BITS,
    MULTIPLIER_BITS,
    ONE_Q15,
    SHIFT_BITS,
    SIGMOID_FRACTION_BITS,
)

_WAITING_CHOICES = 64
"""A choice waits for its token's sum and reciprocal: at most 15 choices and 20 cycles."""


def entry_layout(arch: ArchConfig) -> data.StructLayout:
    """One queue entry: ``row`` goes to one of ``experts``, or to none, with the Q15 ``weight``."""
    choice = choice_layout(arch)
    return data.StructLayout(
        {
            "experts": arch.max_experts,
            "row": choice["row"].shape,
            "weight": GATE_BITS,
            "last": 1,
        }
    )


SIGMOID_ONE = 1 << SIGMOID_FRACTION_BITS


class GateWeights(wiring.Component):
    """``semantics.route``'s weights: 2**-x of the distance to the maximum, or the sigmoid of each
    choice, over the sum.

    One choice and one group per cycle, no back-pressure; an entry comes out about 35 cycles after
    its token's last group. Entries keep the order of the choices.

    Attributes
    ----------
    choice, choice_valid, group, group_valid
        From the selector.
    renormalise
        Divide by the sum over the chosen experts, instead of that over all or, of sigmoids, 1.
    sigmoid
        Weights are sigmoids.
    corrected, expert, correction
        Keys are sigmoids plus a correction; that of an expert, one cycle later.
    multiplier, shift
        Logit to 2**-7 octaves.
    entry, entry_valid
        Finished entries; ``last`` marks the last one of a token.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "choice": In(choice_layout(arch)),
                "choice_valid": In(1),
                "group": In(group_layout()),
                "group_valid": In(1),
                "renormalise": In(1),
                "sigmoid": In(1),
                "corrected": In(1),
                "expert": Out(choice_layout(arch)["expert"].shape),
                "correction": In(signed(CORRECTION_BITS)),
                "multiplier": In(MULTIPLIER_BITS),
                "shift": In(SHIFT_BITS),
                "entry": Out(entry_layout(arch)),
                "entry_valid": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        choice, group = self.choice, self.group

        # The first choice is the maximum; it is there in time for the first group.
        kept, maximum = Signal(LOGIT_BITS, reset_less=True), Signal(LOGIT_BITS)
        first = self.choice_valid & choice.first
        m.d.comb += maximum.eq(Mux(first, choice.key, kept))
        m.d.sync += kept.eq(maximum)

        keys: list[Value] = [*(group.keys[i] for i in range(ROUTER_LANES)), choice.key]
        present = Cat(group.mask & self.group_valid.replicate(ROUTER_LANES), choice.exists)
        m.submodules.powers_of = unit = Powers(self.arch, len(keys))
        m.d.comb += [
            unit.present.eq(delay(m, present, 2, "present", control=True)),
            unit.multiplier.eq(self.multiplier),
            unit.shift.eq(self.shift),
        ]
        self._distances(m, maximum, keys, unit)
        powers = [unit.power[i] for i in range(len(keys))]

        # Line up what belongs to the powers. Latency: both ends, distance, power.
        latency = 2 + Powers.LATENCY
        m.submodules.sigmoid_of = sigmoid = Sigmoid()
        m.d.comb += [
            sigmoid.power.eq(powers[ROUTER_LANES]),
            sigmoid.negative.eq(delay(m, ~choice.key[-1], latency, "negative")),
        ]
        power = delay(m, powers[ROUTER_LANES], Sigmoid.LATENCY, "softmax_power")
        latency += Sigmoid.LATENCY
        chosen = data.View(choice.shape(), delay(m, choice, latency, "choice"))
        chosen_valid = delay(m, self.choice_valid, latency, "choice_valid", control=True)
        chosen_power = Signal(16)
        # A corrected score is the sigmoid and what has been added to it.
        score = Signal(SIGMOID_FRACTION_BITS, reset_less=True)
        key = Cat(choice.key[:-1], ~choice.key[-1]).as_signed()
        m.d.comb += self.expert.eq(choice.expert)
        m.d.sync += score.eq(delay(m, key, 1, "corrected_key") - self.correction)
        score = Mux(self.corrected, delay(m, score, latency - 2, "score"), sigmoid.value)
        m.d.comb += chosen_power.eq(Mux(self.sigmoid & chosen.exists, score, power))

        # Sum, over all experts or over the chosen ones.
        tree = tree_latency(ROUTER_LANES)
        sum_latency = latency + tree
        group_sum = add_tree(m, powers[:ROUTER_LANES], "sum")
        group_sum = delay(m, group_sum, Sigmoid.LATENCY, "late_sum")
        choice_flags = Cat(self.choice_valid, choice.first, choice.last)
        group_flags = Cat(self.group_valid, group.first, group.last)
        of_choice = Signal()
        m.d.comb += of_choice.eq(self.renormalise | self.sigmoid)
        flags = delay(
            m, Mux(of_choice, choice_flags, group_flags), sum_latency, "flags", control=True
        )
        addend = Signal(len(group_sum))
        total_bits = 16 + (self.arch.max_experts - 1).bit_length()
        total = Signal(max(17, total_bits), reset_less=True)
        total_valid = Signal()
        m.d.comb += addend.eq(
            Mux(of_choice, delay(m, chosen_power, tree, "chosen_power"), group_sum)
        )
        with m.If(flags[0]):
            m.d.sync += total.eq(Mux(flags[1], 0, total) + addend)
        with m.If(self.sigmoid & ~self.renormalise):
            m.d.sync += total.eq(SIGMOID_ONE)
        m.d.sync += total_valid.eq(flags[0] & flags[2])
        m.submodules.reciprocal = reciprocal = Reciprocal(len(total))
        m.d.comb += reciprocal.value.eq(total)
        reciprocal_valid = delay(m, total_valid, Reciprocal.LATENCY, "total_valid", control=True)

        # Choices wait for the reciprocal of their token.
        waiting_layout = data.StructLayout({"choice": choice.shape(), "power": 16})
        m.submodules.waiting = waiting = fifo.SyncFIFOBuffered(
            width=waiting_layout.size, depth=_WAITING_CHOICES
        )
        m.d.comb += [
            waiting.w_data.eq(Cat(chosen, chosen_power)),
            waiting.w_en.eq(chosen_valid),
        ]
        mantissa = Signal(16, reset_less=True)
        exponent = Signal(len(reciprocal.exponent), reset_less=True)
        taking = Signal()
        head = data.View(waiting_layout, waiting.r_data)
        m.d.comb += waiting.r_en.eq(taking)
        with m.If(taking & head.choice.last):
            m.d.sync += taking.eq(0)
        with m.If(reciprocal_valid):
            m.d.sync += [
                mantissa.eq(reciprocal.mantissa),
                exponent.eq(reciprocal.exponent),
                taking.eq(1),
            ]

        # weight = min(round_shift(power * mantissa, exponent + 1), 1.0). What waits may be in a
        # block RAM: a register is between it and the multiplier.
        power = delay(m, head.power, 1, "waiting_power")
        product = Signal(32, reset_less=True)
        product_2 = Signal(32, reset_less=True)
        shifted = Signal(32, reset_less=True)
        m.d.sync += [
            product.eq(power * delay(m, mantissa, 1, "mantissa")),
            product_2.eq(product),
            # One fraction bit is left for rounding, so the shift is one less: `exponent`.
            shifted.eq(product_2 >> delay(m, exponent, 3, "exponent")),
        ]
        # Rounding gives more than 1.0 from here on; what is in range has few bits.
        above = shifted[GATE_BITS + 1 :].any() | (shifted[GATE_BITS] & shifted[:GATE_BITS].any())
        rounded = round_half(shifted[: GATE_BITS + 1])[:GATE_BITS]
        finished = data.View(choice.shape(), delay(m, head.choice, 4, "finished"))
        m.d.sync += [
            self.entry.weight.eq(Mux(above, Const(ONE_Q15, GATE_BITS), rounded)),
            self.entry.experts.eq(
                Cat(finished.exists & (finished.expert == e) for e in range(self.arch.max_experts))
            ),
            self.entry.row.eq(finished.row),
            self.entry.last.eq(finished.last),
            self.entry_valid.eq(delay(m, taking, 4, "taking", control=True)),
        ]
        return m

    def _distances(self, m: Module, maximum: Value, keys: list[Value], unit: Powers) -> None:
        """Distance of every key to the maximum; of a choice, a sigmoid takes the magnitude."""
        zero = Const(1 << LOGIT_BITS - 1, LOGIT_BITS)  # keys have the sign bit turned over
        for i, key in enumerate(keys):
            upper, lower = maximum, key
            if i == ROUTER_LANES:
                above = self.sigmoid & key[-1]
                upper = Mux(self.sigmoid, Mux(above, key, zero), maximum)
                lower = Mux(above, zero, key)
            upper, lower = delay(m, upper, 1, f"upper_{i}"), delay(m, lower, 1, f"lower_{i}")
            # The tables hold what they are given for one cycle: a lane's distance is registered.
            distance = Signal(LOGIT_BITS, name=f"distance_{i}", reset_less=True)
            m.d.sync += distance.eq(upper - lower)
            m.d.comb += unit.distance[i].eq(distance)
