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
    # By unit, accesses that a later step can still conflict with, newest last.
    live: dict[isa.Unit, list[tuple[int, Access]]] = {unit: [] for unit in isa.Unit}
    matched: dict[tuple[isa.Unit, isa.Unit], int] = {}
    count = 0
    for index, step in enumerate(steps):
        mine = step.unit
        for unit, accesses in live.items():
            known = matched.get((unit, mine), -1)
            earlier = -1 if unit is mine else _last_conflict(step.accesses, accesses, known)
            if earlier > known:
                steps[earlier].signal.add(mine)
                step.wait.add(unit)
                matched[unit, mine] = earlier
                count += 1
        # A later access of the same unit to the same rows, of the same strength, replaces it.
        kept = [
            (earlier, other)
            for earlier, other in live[mine]
            if not any(other.within(a) and (a.write or not other.write) for a in step.accesses)
        ]
        live[mine] = kept + [(index, access) for access in step.accesses]
    return count


def _last_conflict(
    accesses: tuple[Access, ...], earlier: list[tuple[int, Access]], known: int
) -> int:
    """Index of the last step of ``earlier`` behind step ``known`` with which one of ``accesses``
    conflicts; -1 if there is none."""
    for index, other in reversed(earlier):
        if index <= known:
            break
        if any(conflict(access, other) for access in accesses):
            return index
    return -1
