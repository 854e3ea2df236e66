"""Rules of streams, and the one item that is watched in place of all."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, Value
from amaranth.hdl import ValueLike

from tests.formal.harness import Harness, implies


def hold(
    harness: Harness,
    m: Module,
    valid: ValueLike,
    ready: ValueLike,
    payload: ValueLike,
    name: str,
    cancel: ValueLike = 0,
) -> Value:
    """Whether ``valid`` and ``payload`` stay as they were until ``ready``; 0 where they do not.

    A cycle with ``cancel`` ends the offer.
    """
    payload = Value.cast(payload)
    waiting, before = Signal(name=f"{name}_waiting"), Signal(len(payload), name=f"{name}_before")
    m.d.sync += [
        waiting.eq(Value.cast(valid) & ~Value.cast(ready) & ~Value.cast(cancel)),
        before.eq(payload),
    ]
    return implies(waiting, Value.cast(valid) & (payload == before))


class Watch:
    """Follows one item, chosen by the checker, through a queue.

    Attributes
    ----------
    level
        Items inside, counted from outside.
    marked, ahead
        The watched item is inside; how many leave before it.
    due
        It leaves in this cycle, by count.
    """

    def __init__(
        self,
        harness: Harness,
        m: Module,
        *,
        enter: ValueLike,
        leave: ValueLike,
        most: int,
        matches: ValueLike,
        forget: ValueLike = 0,
        name: str = "watch",
    ) -> None:
        choose = harness.free(m, 1, f"{name}_choose")
        enter, leave = Value.cast(enter), Value.cast(leave)
        self.level = Signal(range(most + 2), name=f"{name}_level")
        self.marked, self.done = Signal(name=f"{name}_marked"), Signal(name=f"{name}_done")
        self.ahead = Signal(range(most + 2), name=f"{name}_ahead")
        self.due = Signal(name=f"{name}_due")
        m.d.comb += self.due.eq(self.marked & leave & (self.ahead == 0))
        m.d.sync += self.level.eq(self.level + enter - leave)
        with m.If(enter & choose & ~self.marked & ~self.done & Value.cast(matches)):
            m.d.sync += [self.marked.eq(1), self.ahead.eq(self.level - leave)]
        with m.If(self.marked & leave):
            m.d.sync += self.ahead.eq(self.ahead - 1)
        with m.If(self.due):
            m.d.sync += [self.marked.eq(0), self.done.eq(1)]
        with m.If(forget):
            m.d.sync += [self.level.eq(0), self.marked.eq(0)]


class Quiet:
    """Counts cycles in a row in which nothing happens, up to ``most``."""

    def __init__(self, m: Module, nothing: ValueLike, most: int, name: str = "quiet") -> None:
        self.cycles = Signal(range(most + 1), name=f"{name}_cycles")
        counted = Mux(self.cycles == most, most, self.cycles + 1)
        m.d.sync += self.cycles.eq(Mux(nothing, counted, 0))
