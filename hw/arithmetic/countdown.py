"""Loop counters whose last step is known when it begins."""

from __future__ import annotations

from amaranth import Signal, Value
from amaranth.hdl import ValueLike


class Countdown:
    """Steps of a loop that are left behind the current one, and whether that is none.

    ``last`` is a register: it is worked out with the count, and not from it in the cycle that
    decides on what follows. The methods return assignments for the domain that steps.

    Parameters
    ----------
    bits
        Width of the number of steps, which is 1 or more.
    name
        Prefix of the registers' names.

    Attributes
    ----------
    left, last
        Steps behind this one; there is none.
    only
        The loop has one step; since :meth:`begin`.
    """

    def __init__(self, bits: int, name: str) -> None:
        self.left = Signal(bits, name=f"{name}_left")
        self.last = Signal(name=f"{name}_last")
        self.only = Signal(name=f"{name}_only")

    def begin(self, steps: Value, nothing: ValueLike = 0) -> list[ValueLike]:
        """At the first of so many steps; at the last one all the same, if there is ``nothing``."""
        one = (steps == 1) | nothing
        return [self.left.eq(steps - 1), self.last.eq(one), self.only.eq(one)]

    def behind(self, left: Value, only: Value) -> list[ValueLike]:
        """At the first step, with so many behind it; ``only``: none."""
        return [self.left.eq(left), self.last.eq(only), self.only.eq(only)]

    def restart(self, left: Value) -> list[ValueLike]:
        """At the first step again, with as many behind it as before."""
        return [self.left.eq(left), self.last.eq(self.only)]

    def step(self) -> list[ValueLike]:
        """To the next step."""
        return [self.left.eq(self.left - 1), self.last.eq(self.left == 1)]
