"""Which bursts end a command."""

from __future__ import annotations

from amaranth import Module

from moesaic.hw.axi import burst
from tests.formal.harness import Control, Harness, Proof, implies, mutant
from tests.formal.streams import Watch

_REMEMBERED = "a burst is remembered as it was issued"


class Ends(Harness):
    """Bursts under way, of which one is watched."""

    def __init__(self, module=burst, polite=True) -> None:
        super().__init__()
        self.dut, self.polite = module.LastOfCommand(4), polite

    def describe(self, m: Module) -> None:
        dut = self.dut
        m.submodules.dut = dut
        value = self.fixed(m, 1, "value")
        for name in ("issue", "final", "done"):
            m.d.comb += getattr(dut, name).eq(self.free(m, 1, f"free_{name}"))
        if self.polite:
            self.assume(implies(dut.issue, dut.under_way != dut.outstanding))
        self.assume(implies(dut.done, dut.under_way != 0))
        watch = Watch(self, m, enter=dut.issue, leave=dut.done, most=4, matches=dut.final == value)
        self.ensure(_REMEMBERED, implies(watch.due, dut.last == value))
        self.ensure("under_way is the number of bursts", dut.under_way == watch.level)
        self.cover("all under way", watch.level == 4)
        self.cover("the watched burst is the last of four", watch.marked & (watch.ahead == 3))


PROOFS = (
    Proof(
        "ends",
        Ends,
        (
            Control("a burst too many", _REMEMBERED, lambda: Ends(polite=False)),
            Control(
                "the newest burst's mark",
                _REMEMBERED,
                lambda: Ends(
                    mutant(burst, "ends.bit_select(head, 1)", "ends.bit_select((tail - 1)[:2], 1)")
                ),
            ),
        ),
        quick=True,
    ),
)
