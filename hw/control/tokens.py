"""Tokens: the only order between units."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.spec import isa


class TokenFile(wiring.Component):
    """A counter for every pair (giver, taker) of units, empty after reset.

    Attributes
    ----------
    wait<u>, want<u>, take<u>
        Mask of units from whom unit u wants a token each, whether it does, and whether it begins
        with them now; as of :class:`~moesaic.hw.interfaces.InstructionPort`.
    granted<u>
        It has them: they are off the counters a cycle later. A register: tokens given in a cycle
        are granted two cycles later.
    signal<u>, give<u>
        Mask of units to whom unit u gives a token each, and whether it does so now.
    overflow, giver
        A token was given that found its counter full; who gave it. Stays up until reset.
    """

    def __init__(self) -> None:
        units = range(isa.UNIT_COUNT)
        super().__init__(
            {
                **{f"wait{u}": In(isa.UNIT_COUNT) for u in units},
                **{f"want{u}": In(1) for u in units},
                **{f"take{u}": In(1) for u in units},
                **{f"granted{u}": Out(1) for u in units},
                **{f"signal{u}": In(isa.UNIT_COUNT) for u in units},
                **{f"give{u}": In(1) for u in units},
                "overflow": Out(1),
                "giver": Out(range(isa.UNIT_COUNT)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        units = range(isa.UNIT_COUNT)
        full = (1 << isa.TOKEN_BITS) - 1
        overflows = []
        for taker in units:
            wanted, granted = getattr(self, f"wait{taker}"), getattr(self, f"granted{taker}")
            # What a unit is granted leaves the counters in the first cycle of the grant, whenever
            # the unit takes it: a `take` that hangs on much reaches one register here.
            grant, fresh = Signal(name=f"grant_{taker}"), Signal(name=f"fresh_{taker}")
            lacking = []
            for giver in units:
                count = Signal(isa.TOKEN_BITS, name=f"tokens_{giver}_{taker}")
                some = Signal(name=f"some_{giver}_{taker}")
                lacking.append(wanted[giver] & ~some)
                given = Signal(name=f"given_{giver}_{taker}")
                taken = Signal(name=f"taken_{giver}_{taker}")
                m.d.comb += [
                    given.eq(
                        getattr(self, f"give{giver}") & getattr(self, f"signal{giver}")[taker]
                    ),
                    taken.eq(fresh & wanted[giver]),
                ]
                overflows.append((giver, Signal(name=f"overflow_{giver}_{taker}")))
                m.d.sync += [
                    count.eq(count + given - taken),
                    some.eq(given | (some & (~taken | (count != 1)))),
                    overflows[-1][1].eq(given & ~taken & (count == full)),
                ]
            m.d.comb += grant.eq(getattr(self, f"want{taker}") & ~granted & ~Cat(lacking).any())
            m.d.sync += [
                fresh.eq(grant),
                granted.eq(grant | (granted & ~getattr(self, f"take{taker}"))),
            ]
        by_giver = Signal(isa.UNIT_COUNT)
        for giver in units:
            m.d.sync += by_giver[giver].eq(Cat(o for g, o in overflows if g == giver).any())
        for giver in reversed(units):
            with m.If(by_giver[giver] & ~self.overflow):
                m.d.sync += [self.overflow.eq(1), self.giver.eq(giver)]
        return m
