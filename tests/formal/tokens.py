"""Tokens, as units ask for them by the rules of ``InstructionPort``."""

from __future__ import annotations

from amaranth import Cat, Module, Signal

from moesaic.hw.control import tokens
from moesaic.spec import isa
from tests.formal.harness import Control, Harness, Opened, Proof, implies, mutant

UNITS = range(isa.UNIT_COUNT)
TOLD = "what does not fit is told two cycles later, and nothing else"
ASKED = "a unit is granted what it asked for in the cycle before"
COVERED = "a grant is given only with all of its tokens there: no counter underflows"


class Tokens(Harness):
    """All pairs of units at once; each counted by the harness too."""

    def __init__(self, module=tokens, *, bits: int = isa.TOKEN_BITS, steady: bool = True) -> None:
        super().__init__()
        self.dut, self.bits, self.steady = module.TokenFile(), bits, steady

    def describe(self, m: Module) -> None:
        dut = self.dut
        m.submodules.dut = inner = Opened(dut)

        def port(name: str, unit: int) -> Signal:
            return getattr(dut, f"{name}{unit}")

        asked, fresh = [], []
        for unit in UNITS:
            for name in ("wait", "want", "take", "signal", "give"):
                target = port(name, unit)
                m.d.comb += target.eq(self.free(m, len(target), f"free_{name}{unit}"))
            # A mask that was wanted stands until its tokens are taken.
            pending, mask = Signal(name=f"pending{unit}"), Signal(len(UNITS), name=f"mask{unit}")
            m.d.sync += [
                pending.eq((pending | port("want", unit)) & ~port("take", unit)),
                mask.eq(port("wait", unit)),
            ]
            if self.steady:
                self.assume(implies(pending, port("wait", unit) == mask))
            self.assume(implies(port("take", unit), port("granted", unit)))
            asked.append(implies(port("granted", unit), pending))
            # Tokens leave their counters in the first cycle of a grant.
            before = Signal(name=f"before{unit}")
            m.d.sync += before.eq(port("granted", unit))
            fresh.append(port("granted", unit) & ~before)
            (inside,) = inner.signals(f"fresh_{unit}")
            self.invariant(inside == fresh[-1])

        self.ensure(ASKED, Cat(asked).all())

        spilled, spill, covered = Signal(), [], []
        for giver in UNITS:
            for taker in UNITS:
                given = port("give", giver) & port("signal", giver)[taker]
                wanted = port("wait", taker)[giver]
                taken = fresh[taker] & wanted
                count = Signal(self.bits, name=f"count_{giver}_{taker}")
                m.d.sync += count.eq(count + given - taken)
                spill.append(given & ~taken & (count == (1 << self.bits) - 1))
                covered.append(implies(taken & ~spilled, count != 0))
                (inside,) = inner.signals(f"tokens_{giver}_{taker}")
                self.invariant(inside == count)
                (some,) = inner.signals(f"some_{giver}_{taker}")
                self.invariant(implies(~spilled, some == (count != 0)))
        self.ensure(COVERED, Cat(covered).all())
        m.d.sync += spilled.eq(spilled | Cat(spill).any())
        # Found, gathered by giver, told: a cycle each.
        gathered, told = Signal(), Signal()
        m.d.sync += [gathered.eq(spilled), told.eq(gathered)]
        self.ensure(TOLD, dut.overflow == told)
        guilty = Signal(len(UNITS))
        with m.If(~spilled):
            m.d.sync += guilty.eq(
                Cat(Cat(spill[len(UNITS) * g : len(UNITS) * (g + 1)]).any() for g in UNITS)
            )
        self.ensure("who gave it is told", implies(dut.overflow, guilty.bit_select(dut.giver, 1)))
        flags = []
        for giver in UNITS:
            for taker in UNITS:
                (flag,) = inner.signals(f"overflow_{giver}_{taker}")
                flags.append(flag)
                self.invariant(implies(flag, spilled))
                self.invariant(implies(flag & ~gathered, guilty[giver]))
            by_giver = inner["by_giver"][giver]
            self.invariant(implies(by_giver, gathered))
            self.invariant(implies(by_giver & ~told, guilty[giver]))
        self.invariant(implies(spilled & ~gathered, Cat(flags).any()))
        self.invariant(implies(gathered & ~told, inner["by_giver"].any()))
        self.invariant(implies(told, gathered) & implies(gathered, spilled))
        took = Signal()
        m.d.sync += took.eq(took | (dut.granted1 & dut.take1 & (dut.wait1 == 3)))
        self.cover("a grant of tokens from all units", dut.granted0 & dut.want0 & dut.wait0.all())
        self.cover(
            "a grant behind one that was taken", dut.granted1 & dut.want1 & took & (dut.wait1 == 5)
        )
        if self.bits < isa.TOKEN_BITS:
            self.cover("too many tokens, which is told", dut.overflow & (dut.giver == 3))


def _small() -> Tokens:
    return _small_as(2)


def _small_as(bits: int) -> Tokens:
    """Counters of 2 bits, taken for ones of ``bits``."""
    return Tokens(mutant(tokens, "isa.TOKEN_BITS", "2", times=2), bits=bits)


PROOFS = (
    Proof(
        "tokens",
        Tokens,
        (
            Control(
                "a mask that changes while it is wanted", COVERED, lambda: Tokens(steady=False)
            ),
            Control(
                "a grant a cycle longer",
                ASKED,
                lambda: Tokens(mutant(tokens, '& ~getattr(self, f"take{taker}")', "")),
            ),
        ),
        steps=2,
        quick=True,
    ),
    # Counters so small that the checker fills them.
    Proof(
        "tokens-small",
        _small,
        (Control("counters smaller than is thought", TOLD, lambda: _small_as(3)),),
        steps=2,
        quick=True,
    ),
)
