"""Places of buffers in the activation scratchpad, by their lifetimes.

Planes that one NORM writes have one distance, so what lies behind a buffer is placed together with
it: a run. Their lifetimes are two, and other buffers take the place of either as it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from moesaic.compiler.schedule.steps import Buffer
from moesaic.spec.arch import ArchConfig


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


@dataclass
class Run:
    """Buffers that lie one behind the other, mostly one."""

    entries: list[Lifetime]

    @property
    def words(self) -> int:
        return sum(entry.buffer.words for entry in self.entries)

    @property
    def side(self) -> int:
        return self.entries[0].buffer.side

    def meets(self, other: Run) -> bool:
        """Whether some of both are alive at the same time."""
        return any(mine.meets(its) for mine in self.entries for its in other.entries)

    def put(self, base: int) -> None:
        """Set the bases of all."""
        for entry in self.entries:
            entry.buffer.base = base
            base += entry.buffer.words


def runs_of(entries: list[Lifetime]) -> list[Run]:
    """All buffers, in order of first use of the first of each run."""
    of = {entry.buffer: entry for entry in entries}
    behind = {entry.buffer.behind for entry in entries}
    runs = []
    for entry in entries:
        if entry.buffer in behind:
            continue
        run, last = [entry], entry.buffer
        while last.behind is not None:
            last = last.behind
            run.append(of[last])
        runs.append(Run(run))
    return runs


class Places:
    """Words of the scratchpad, the buffers placed so far, and the position of the last user of each
    word."""

    def __init__(self, arch: ArchConfig) -> None:
        self.words, self.banks = arch.activation_words, arch.activation_banks
        self.last_user = np.full(self.words, -1, np.int64)
        self._placed: list[Buffer] = []
        self._spans = np.zeros((1024, 2), np.int64)  # first and last positions of those placed

    def take(self, entry: Lifetime) -> None:
        """Have ``entry`` use its place."""
        part = self.last_user[entry.buffer.base :][: entry.buffer.words]
        np.maximum(part, entry.last, out=part)
        number = len(self._placed)
        if number == len(self._spans):
            self._spans = np.concatenate([self._spans, np.zeros_like(self._spans)])
        self._spans[number] = entry.first, entry.last
        self._placed.append(entry.buffer)

    def beside(self, entry: Lifetime) -> Iterator[Buffer]:
        """Those placed that are alive at the same time."""
        spans = self._spans[: len(self._placed)]
        meets = (spans[:, 0] <= entry.last) & (entry.first <= spans[:, 1])
        return (self._placed[index] for index in np.flatnonzero(meets))

    def edges(self) -> set[int]:
        """Where a buffer may begin, besides the ends of those it must leave alone."""
        recent = {buffer.base + buffer.words for buffer in self._placed[-RECENT:]}
        return {0, *range(0, self.words, self.words // self.banks), *recent}

    def quick(self, base: int, run: Run) -> tuple[int, ...]:
        """The wished bank first, then the place whose last user is furthest back, so that few
        tokens are needed to reuse it."""
        size = self.words // self.banks
        banks = range(base // size, (base + run.words - 1) // size + 1)
        wrong = sum(bank % 2 != run.side % 2 for bank in banks if self.banks > 1)
        return wrong, int(self.last_user[base : base + run.words].max()), base

    def lowest(self, base: int, run: Run) -> tuple[int, ...]:
        return (base,)


Cost = Callable[[Places, int, Run], tuple[int, ...]]
"""Of a base for a run of buffers beside those placed: the least is taken."""
RECENT = 64
"""Buffers of those placed last behind which another may begin, whether they are alive or not."""
MOST_TURNS = 8
"""Tries with ever more of the program placed densely before all of it is."""


def place_all(entries: list[Lifetime], arch: ArchConfig) -> bool:
    """Set the bases of all buffers, whose lifetimes are in order of first use; whether they fit.

    They are placed in this order, for speed. Where memory is short, what is alive at that time
    goes first and lies as densely as it can; if not even that fits, nobody's wishes count any more.
    """
    runs = runs_of(entries)
    first: set[int] = set()  # of all runs
    for _ in range(MOST_TURNS):
        dense = _by_size([runs[number] for number in sorted(first)])
        others = [run for number, run in enumerate(runs) if number not in first]
        places = Places(arch)
        if _place(dense, places, Places.lowest):
            break
        failed = _place(others, places, Places.quick)
        if not failed:
            return True
        first |= {n for n, run in enumerate(runs) if any(run.meets(other) for other in failed)}
    return not _place(_by_size(runs), Places(arch), Places.lowest)


def _by_size(runs: list[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: -run.words)


def _place(runs: list[Run], places: Places, cost: Cost) -> list[Run]:
    """Place one run of buffers after the other, beside those placed; returns those that found no
    gap."""
    failed = []
    for run in runs:
        taken: list[tuple[int, int]] = []  # the run begins at the first or before, or at the second
        offset = 0
        for entry in run.entries:
            words = entry.buffer.words
            for other in places.beside(entry):
                end = other.base + other.words
                taken.append((other.base - offset - words, end - offset))
            offset += words
        edges = {end for _, end in taken} | places.edges()
        gaps = [
            base
            for base in edges
            if 0 <= base <= places.words - run.words
            and all(base <= last or end <= base for last, end in taken)
        ]
        if not gaps:
            failed.append(run)
            continue
        run.put(min((cost(places, base, run), base) for base in gaps)[1])
        for entry in run.entries:
            places.take(entry)
    return failed
