"""Tokens: the order between units that data dependencies ask for, and no more."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from moesaic.compiler.schedule.steps import Access, Buffer, Resource, Step, conflict
from moesaic.spec import isa


def insert_tokens(steps: list[Step]) -> int:
    """Fill ``wait`` and ``signal`` of every step; returns the number of tokens.

    A step must follow the last conflicting step (one of them writes, addresses overlap) of every
    other unit. Units work in order, so one token per pair of units is enough, and none if an
    earlier one between the same units already proves it: tokens of a pair are then produced and
    consumed in the same order, which is what counters can express.
    """
    past = {unit: _Past() for unit in isa.Unit}
    matched: dict[tuple[isa.Unit, isa.Unit], int] = {}
    count = 0
    for index, step in enumerate(steps):
        mine = step.unit
        for unit, accesses in past.items():
            known = matched.get((unit, mine), -1)
            earlier = -1 if unit is mine else accesses.last_conflict(step.accesses, known)
            if earlier > known:
                steps[earlier].signal.add(mine)
                step.wait.add(unit)
                matched[unit, mine] = earlier
                count += 1
        past[mine].add(index, step.accesses)
    return count


@dataclass
class _Entry:
    """An access of step ``index``; not ``live`` once a later one takes its place."""

    index: int
    access: Access
    live: bool = True


@dataclass
class _Past:
    """Accesses of one unit: of each resource the newest last, and of each buffer those that a later
    step can still conflict with."""

    by_resource: dict[Resource, list[_Entry]] = field(default_factory=lambda: defaultdict(list))
    by_buffer: dict[tuple[Resource, Buffer | None], list[_Entry]] = field(default_factory=dict)

    def last_conflict(self, accesses: tuple[Access, ...], known: int) -> int:
        """Index of the last step behind step ``known`` with which one of ``accesses`` conflicts;
        -1 if there is none."""
        last = -1
        for access in accesses:
            for entry in reversed(self.by_resource[access.resource]):
                if entry.index <= max(known, last):
                    break
                if entry.live and conflict(access, entry.access):
                    last = entry.index
                    break
        return last

    def add(self, index: int, accesses: tuple[Access, ...]) -> None:
        """Keep the accesses of a step: a later access to the same rows, of the same strength,
        replaces one."""
        for access in accesses:
            held = self.by_buffer.get((access.resource, access.buffer), [])
            for entry in held:
                other = entry.access
                entry.live = not (other.within(access) and (access.write or not other.write))
            self.by_buffer[access.resource, access.buffer] = [e for e in held if e.live]
        for access in accesses:
            entry = _Entry(index, access)
            self.by_resource[access.resource].append(entry)
            self.by_buffer[access.resource, access.buffer].append(entry)
