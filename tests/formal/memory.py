"""A memory behind an AXI4 read port, as free as AXI4's rules leave it."""

from __future__ import annotations

from itertools import pairwise

from amaranth import Cat, Module, Mux, Signal

from tests.formal.harness import Harness, implies
from tests.formal.streams import hold


class Subordinate:
    """Any memory behind a read port: it answers addresses in order, at any time.

    Attributes
    ----------
    level
        Addresses it has taken and not answered to the last beat.
    left
        Beats of the oldest one that are to come.
    """

    def __init__(
        self, harness: Harness, m: Module, axi, most: int, *, generous=0, name="memory"
    ) -> None:
        lengths = [Signal(len(axi.arlen), name=f"{name}_length{n}") for n in range(most)]
        self.level, self.beat = (
            Signal(range(most + 2), name=f"{name}_level"),
            Signal(8, name=f"{name}_beat"),
        )
        taken, ended = axi.arvalid & axi.arready, axi.rvalid & axi.rready & axi.rlast
        for target in (axi.arready, axi.rvalid, axi.rdata, axi.rresp):
            m.d.comb += target.eq(harness.free(m, len(target), f"{name}_free{len(target)}"))
        m.d.comb += axi.rlast.eq(self.beat == lengths[0])
        place = Mux(ended, self.level - 1, self.level)[: len(self.level)]
        m.d.sync += self.level.eq(self.level + taken - ended)
        with m.If(axi.rvalid & axi.rready):
            m.d.sync += self.beat.eq(Mux(axi.rlast, 0, self.beat + 1))
        with m.If(ended):
            m.d.sync += [one.eq(following) for one, following in pairwise(lengths)]
        for n, length in enumerate(lengths):
            with m.If(taken & (place == n)):
                m.d.sync += length.eq(axi.arlen)
        harness.assume(implies(axi.rvalid, self.level != 0))
        harness.assume(
            hold(harness, m, axi.rvalid, axi.rready, Cat(axi.rdata, axi.rresp), f"{name}_r")
        )
        harness.assume(implies(generous, axi.arready & (axi.rvalid | (self.level == 0))))
