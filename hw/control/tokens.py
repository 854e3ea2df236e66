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
        Mask of units from whom unit u wants a token each, whether it does, and whether it takes
        them now; as of :class:`~moesaic.hw.interfaces.InstructionPort`.
    granted<u>
        All of them are there. A register: tokens given in a cycle are granted two cycles later.
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
            wanted = getattr(self, f"wait{taker}")
            there = []
            for giver in units:
                count = Signal(isa.TOKEN_BITS, name=f"tokens_{giver}_{taker}")
                there.append(count.any())
                given = Signal(name=f"given_{giver}_{taker}")
                taken = Signal(name=f"taken_{giver}_{taker}")
                m.d.comb += [
                    given.eq(
                        getattr(self, f"give{giver}") & getattr(self, f"signal{giver}")[taker]
                    ),
                    taken.eq(
                        getattr(self, f"take{taker}")
                        & getattr(self, f"granted{taker}")
                        & wanted[giver]
                    ),
                ]
                overflows.append((giver, Signal(name=f"overflow_{giver}_{taker}")))
                m.d.sync += [
                    count.eq(count + given - taken),
                    overflows[-1][1].eq(given & ~taken & (count == full)),
                ]
            m.d.sync += getattr(self, f"granted{taker}").eq(
                getattr(self, f"want{taker}")
                & ~getattr(self, f"take{taker}")
                & ((Cat(*there) & wanted) == wanted)
            )
        for giver, overflow in overflows:
            with m.If(overflow & ~self.overflow):
                m.d.sync += [self.overflow.eq(1), self.giver.eq(giver)]
        return m
