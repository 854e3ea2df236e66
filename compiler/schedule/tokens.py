"""Tokens: the order between units that data dependencies ask for, and no more."""

from __future__ import annotations

from moesaic.compiler.schedule.steps import Access, Step, conflict
from moesaic.spec import isa


def insert_tokens(steps: list[Step]) -> int:
    """Fill ``wait`` and ``signal`` of every step; returns the number of tokens.

    A step must follow the last conflicting step (one of them writes, addresses overlap) of every
    other unit. Units work in order, so one token per pair of units is enough, and none if an
    earlier one between the same units already proves it: tokens of a pair are then produced and
    consumed in the same order, which is what counters can express.
    """
    # Per resource, accesses that a later step can still conflict with, newest last.
    live: list[tuple[int, isa.Unit, Access]] = []
    matched: dict[tuple[isa.Unit, isa.Unit], int] = {}
    count = 0
    for index, step in enumerate(steps):
        needed: dict[isa.Unit, int] = {}
        for access in step.accesses:
            for earlier, unit, other in live:
                if unit is not step.unit and conflict(access, other):
                    needed[unit] = max(needed.get(unit, -1), earlier)
        for unit, earlier in needed.items():
            pair = (unit, step.unit)
            if earlier > matched.get(pair, -1):
                steps[earlier].signal.add(step.unit)
                step.wait.add(unit)
                matched[pair] = earlier
                count += 1
        # A later access of the same unit to the same rows, of the same strength, replaces it.
        mine = [
            (i, unit, other)
            for i, unit, other in live
            if not (
                unit is step.unit
                and any(other.within(a) and (a.write or not other.write) for a in step.accesses)
            )
        ]
        live = mine + [(index, step.unit, access) for access in step.accesses]
    return count
