"""Memory plan of the activation scratchpad: every buffer gets a place for its lifetime.

A plan must not make units wait for each other. What orders units are tokens, and tokens follow
from places: a step that writes over words that an earlier step reads waits until that one has
ended. This is harmless where the earlier step ends by itself. A MATMUL does not if its groups need
more accumulator banks, or its column tiles more parameter blocks, than there are: then it ends
only as its DRAIN frees them. Such a MATMUL's source therefore lives until its DRAIN ends. No step
up to there waits for the MATMUL's end, so every wait is for an earlier step that ends by itself or
for the DRAIN that is due, and no program hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from moesaic.compiler.schedule.steps import Buffer, Step, conflict
from moesaic.spec import isa
from moesaic.spec.arch import ACCUMULATOR_BANKS, ArchConfig
from moesaic.spec.errors import UserError


@dataclass
class Lifetime:
    """Program positions of the first and last step that need the contents of a buffer."""

    buffer: Buffer
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are alive at the same time."""
        return self.first <= other.last and other.first <= self.last

    def free_from(self, other: Lifetime) -> bool:
        """Whether their places share no word."""
        mine, its = self.buffer, other.buffer
        return mine.base + mine.words <= its.base or its.base + its.words <= mine.base


def ends_by_itself(matmul: Step, arch: ArchConfig) -> bool:
    """Whether a MATMUL ends before its DRAIN begins, if it has to.

    Banks take all its groups, and the vector unit's buffer all its parameter blocks.
    """
    groups, n_tiles = int(matmul.fields["groups"]), int(matmul.fields["n_tiles"])  # type: ignore[arg-type]
    blocks = groups * n_tiles if matmul.fields.get("parameters") else 0
    return groups <= ACCUMULATOR_BANKS and blocks <= arch.parameter_blocks


def products(steps: list[Step]) -> Iterator[tuple[int, int]]:
    """Positions of every MATMUL and of its DRAIN: both units work in program order."""
    matmuls = [i for i, step in enumerate(steps) if step.opcode is isa.Opcode.MATMUL]
    drains = [i for i, step in enumerate(steps) if step.opcode is isa.Opcode.DRAIN]
    return zip(matmuls, drains, strict=True)


def lifetimes(steps: list[Step], arch: ArchConfig) -> list[Lifetime]:
    """Lifetimes of all buffers, in order of first use."""
    until = {
        matmul: drain
        for matmul, drain in products(steps)
        if not ends_by_itself(steps[matmul], arch)
    }
    found: dict[Buffer, Lifetime] = {}
    for index, step in enumerate(steps):
        last = until.get(index, index)
        for access in step.accesses:
            if access.buffer is not None:
                entry = found.get(access.buffer)
                if entry is None:
                    entry = found[access.buffer] = Lifetime(access.buffer, index, index)
                if entry.last < last:
                    entry.last = last
    return list(found.values())


def plan_memory(steps: list[Step], arch: ArchConfig) -> int:
    """Set the base of every buffer; returns the highest word used plus one.

    Buffers that live at the same time never overlap, and the units never wait for each other
    (both checked). Buffers are placed in order of first use, for speed; where this leaves gaps
    that are too small, again and the largest first.

    Raises
    ------
    UserError
        The live buffers do not fit into the scratchpad.
    """
    entries = lifetimes(steps, arch)
    by_size = sorted(entries, key=lambda entry: -entry.buffer.words)
    worst, alive = _fullest(entries)
    fits = alive <= arch.activation_words and (
        _place(entries, arch, _Places.quick) or _place(by_size, arch, _Places.lowest)
    )
    if not fits:
        raise UserError(
            f"the model does not fit target {arch.name}: activations {worst.name} need"
            f" {worst.words * arch.depth} bytes beside {(alive - worst.words) * arch.depth} live"
            f" ones, the scratchpad has {arch.activation_bytes}"
            f"{' in gaps that are too small' if alive <= arch.activation_words else ''};"
            " use a target with more activation_bytes"
        )
    check_plan(steps, arch)
    return max(entry.buffer.base + entry.buffer.words for entry in entries)


class _Places:
    """Words of the scratchpad, and the position of the last user of each so far."""

    def __init__(self, arch: ArchConfig) -> None:
        self.words, self.banks = arch.activation_words, arch.activation_banks
        self.last_user = np.full(self.words, -1, np.int64)

    def take(self, entry: Lifetime) -> None:
        """Have ``entry`` use its place."""
        part = self.last_user[entry.buffer.base :][: entry.buffer.words]
        np.maximum(part, entry.last, out=part)

    def quick(self, base: int, buffer: Buffer) -> tuple[int, ...]:
        """The wished bank first, then the place whose last user is furthest back, so that few
        tokens are needed to reuse it."""
        size = self.words // self.banks
        banks = range(base // size, (base + buffer.words - 1) // size + 1)
        wrong = sum(bank % 2 != buffer.side % 2 for bank in banks if self.banks > 1)
        return wrong, int(self.last_user[base : base + buffer.words].max()), base

    def lowest(self, base: int, buffer: Buffer) -> tuple[int, ...]:
        return (base,)


Cost = Callable[[_Places, int, Buffer], tuple[int, ...]]
"""Of a base for a buffer beside those placed: the least is taken."""
RECENT = 64
"""Buffers of those placed last behind which another may begin, whether they are alive or not."""


def _place(entries: list[Lifetime], arch: ArchConfig, cost: Cost) -> bool:
    """Place one buffer after the other; whether all found a gap."""
    placed: list[Lifetime] = []
    spans = np.zeros((len(entries), 2), np.int64)  # first and last positions of those placed
    places = _Places(arch)
    bank_words = arch.activation_words // arch.activation_banks
    for number, entry in enumerate(entries):
        words = entry.buffer.words
        before = spans[:number]
        meets = (before[:, 0] <= entry.last) & (entry.first <= before[:, 1])
        busy = [
            (other.buffer.base, other.buffer.base + other.buffer.words)
            for other in (placed[index] for index in np.flatnonzero(meets))
        ]
        edges = {0, *(end for _, end in busy), *range(0, arch.activation_words, bank_words)}
        edges |= {other.buffer.base + other.buffer.words for other in placed[-RECENT:]}
        gaps = [
            base
            for base in edges
            if base + words <= arch.activation_words
            and all(base + words <= start or end <= base for start, end in busy)
        ]
        if not gaps:
            return False
        entry.buffer.base = min((cost(places, base, entry.buffer), base) for base in gaps)[1]
        places.take(entry)
        placed.append(entry)
        spans[number] = entry.first, entry.last
    return True


def _fullest(entries: list[Lifetime]) -> tuple[Buffer, int]:
    """The buffer at whose first use most words are alive, and how many."""
    end = max(entry.last for entry in entries) + 1
    change = [0] * (end + 1)
    for entry in entries:
        change[entry.first] += entry.buffer.words
        change[entry.last + 1] -= entry.buffer.words
    alive = list(accumulate(change))
    worst = max(entries, key=lambda entry: (alive[entry.first], entry.first))
    return worst.buffer, alive[worst.first]


def check_plan(steps: list[Step], arch: ArchConfig) -> None:
    """Prove that all buffers are inside, that no two alive at the same time share a word, and
    that no step waits for a MATMUL that ends only after it.

    Raises
    ------
    AssertionError
        The plan is wrong.
    """
    alive: list[Lifetime] = []
    for entry in lifetimes(steps, arch):  # in order of first use
        buffer = entry.buffer
        if not 0 <= buffer.base <= arch.activation_words - buffer.words:
            raise AssertionError(f"buffer {buffer.name} leaves the scratchpad")
        alive = [other for other in alive if other.last >= entry.first]
        for other in alive:
            if not entry.free_from(other):
                raise AssertionError(f"buffers {other.buffer.name} and {buffer.name} overlap")
        alive.append(entry)
    for matmul, drain in products(steps):
        if ends_by_itself(steps[matmul], arch):
            continue
        for step in steps[matmul + 1 : drain + 1]:
            if any(conflict(a, b) for a in step.accesses for b in steps[matmul].accesses):
                raise AssertionError(
                    f"{step.label}: {step.opcode.name} waits for a MATMUL that ends after it"
                )
