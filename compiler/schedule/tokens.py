"""Tokens: the order between units that data dependencies ask for, and no more.

The gateware counts tokens that one unit has given another and that are not taken yet, up to a
limit. Where more would be under way, neighbours become one: a step then waits for more than it has
to, but only for what ends before it begins.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from moesaic.compiler.schedule.memory import ends_by_itself, products
from moesaic.compiler.schedule.steps import Access, Buffer, Resource, Step, conflict
from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError

MOST_TOKENS = (1 << isa.TOKEN_BITS) - 1
"""That one unit has given another and that are not taken yet."""
_Pair = tuple[isa.Unit, isa.Unit]
_Token = tuple[int, int]
"""Positions of the steps that give it and that take it."""


def insert_tokens(steps: list[Step], arch: ArchConfig) -> int:
    """Fill ``wait`` and ``signal`` of every step; returns the number of tokens.

    A step must follow the last conflicting step (one of them writes, addresses overlap) of every
    other unit. Units work in order, so one token per pair of units is enough, and none if an
    earlier one between the same units already proves it: tokens of a pair are then produced and
    consumed in the same order, which is what counters can express.

    Raises
    ------
    UserError
        More tokens would be under way than are counted.
    """
    past = {unit: _Past() for unit in isa.Unit}
    tokens: dict[_Pair, list[_Token]] = {}
    for index, step in enumerate(steps):
        mine = step.unit
        for unit, accesses in past.items():
            before = tokens.get((unit, mine))
            known = before[-1][0] if before else -1
            earlier = -1 if unit is mine else accesses.last_conflict(step.accesses, known)
            if earlier > known:
                tokens.setdefault((unit, mine), []).append((earlier, index))
        past[mine].add(index, step.accesses)
    # A taker may lag behind dispatch, which goes by program order, by what its queue holds.
    most = MOST_TOKENS - arch.queue_depth - 1
    ends: list[int] = []
    for (giver, taker), given in tokens.items():
        if _under_way(given) > most:
            ends = ends or _ends(steps, arch)
            given = _fewer(given, ends, most)
            if _under_way(given) > most:
                raise UserError(
                    f"the model does not fit target {arch.name}: the {giver.name} unit would be"
                    f" {_under_way(given)} steps ahead of the {taker.name} unit, {most} are"
                    " counted; use a target with larger scratchpads"
                )
            tokens[giver, taker] = given
    for (giver, taker), given in tokens.items():
        for earlier, later in given:
            steps[earlier].signal.add(taker)
            steps[later].wait.add(giver)
    return sum(map(len, tokens.values()))


def _under_way(tokens: list[_Token]) -> int:
    """Most tokens of a pair that are given and not taken, in program order."""
    most = taken = 0
    for number, (earlier, _) in enumerate(tokens):
        while tokens[taken][1] < earlier:
            taken += 1
        most = max(most, number + 1 - taken)
    return most


def _fewer(tokens: list[_Token], ends: list[int], most: int) -> list[_Token]:
    """At most ``most`` under way, if that can be: of neighbours the first taker waits for the last
    giver, where that has ended by then whatever the taker does."""
    size, fewer = 1, tokens
    while _under_way(fewer) > most and size < len(tokens):
        size, fewer, count = 2 * size, [], 0
        for earlier, later in tokens:
            if fewer and count < size and ends[earlier] < fewer[-1][1]:
                fewer[-1] = earlier, fewer[-1][1]
                count += 1
            else:
                fewer.append((earlier, later))
                count = 1
    return fewer


def _ends(steps: list[Step], arch: ArchConfig) -> list[int]:
    """Of each step the position of the last one that it needs to end: of a MATMUL that does not end
    by itself its DRAIN, of a STORE what sends its last chunk."""
    ends = list(range(len(steps)))
    for matmul, drain in products(steps):
        if not ends_by_itself(steps[matmul], arch):
            ends[matmul] = drain
    sent = [(i, chunks) for i, step in enumerate(steps) if (chunks := _chunks(step, arch))]
    wanted = there = number = 0
    for index, step in enumerate(steps):
        if step.opcode is not isa.Opcode.STORE:
            continue
        wanted += int(step.fields["words"])  # type: ignore[arg-type]
        while there < wanted:
            last, chunks = sent[number]
            there, number, ends[index] = there + chunks, number + 1, max(index, last)
    return ends


def _chunks(step: Step, arch: ArchConfig) -> int:
    """Chunks that a step sends to the store unit."""
    fields = step.fields
    if step.opcode is isa.Opcode.NORM and fields.get("store"):
        return int(fields["rows"]) * int(fields["words"])  # type: ignore[arg-type]
    if step.opcode is isa.Opcode.DRAIN and fields["kind"] is isa.Drain.OUTPUT:
        return int(fields["rows"]) * layout.words(int(fields["columns"]), arch.lanes)  # type: ignore[arg-type]
    return 0


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
