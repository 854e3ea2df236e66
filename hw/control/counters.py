"""Performance counters."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from moesaic.spec.registers import COUNTER_BITS, COUNTERS

EVENT_BITS = 12
"""A counter may grow by up to 4095 in one cycle."""


class PerformanceCounters(wiring.Component):
    """All counters of ``spec.registers``; each adds its ``event`` with a cycle's delay.

    Reset sets all to zero and forgets events that are not counted yet.

    Attributes
    ----------
    event_<name>
        What to add in this cycle; lower-case counter name.
    count_<name>
        The counter.
    """

    def __init__(self) -> None:
        names = [name.lower() for name, _ in COUNTERS]
        super().__init__(
            {
                **{f"event_{name}": In(EVENT_BITS) for name in names},
                **{f"count_{name}": Out(COUNTER_BITS) for name in names},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, _ in COUNTERS:
            event = getattr(self, f"event_{name.lower()}")
            count = getattr(self, f"count_{name.lower()}")
            step = event.like(event, name=f"step_{name.lower()}")
            m.d.sync += [step.eq(event), count.eq(count + step)]
        return m
