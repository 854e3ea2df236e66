"""Memory plan of the activation scratchpad: every buffer gets a place for its lifetime."""

from __future__ import annotations

from dataclasses import dataclass

from moesaic.compiler.schedule.steps import Buffer, Step
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError


@dataclass
class Lifetime:
    """Program positions of the first and last step that touch a buffer."""

    buffer: Buffer
    first: int
    last: int


def lifetimes(steps: list[Step]) -> list[Lifetime]:
    """Lifetimes of all buffers, in order of first use."""
    found: dict[Buffer, Lifetime] = {}
    for index, step in enumerate(steps):
        for access in step.accesses:
            if access.buffer is not None:
                entry = found.setdefault(access.buffer, Lifetime(access.buffer, index, index))
                entry.last = index
    return list(found.values())


def plan_memory(steps: list[Step], arch: ArchConfig) -> int:
    """Set the base of every buffer; returns the highest word used plus one.

    Buffers that live at the same time never overlap (checked). Among the gaps that are large
    enough, one in the wished bank wins, then the one whose last user is furthest back, so that
    few tokens are needed to reuse it.

    Raises
    ------
    UserError
        The live buffers do not fit into the scratchpad.
    """
    placed: list[Lifetime] = []
    bank_words = arch.activation_words // arch.activation_banks
    top = 0
    for entry in lifetimes(steps):
        busy = sorted(
            (other.buffer.base, other.buffer.base + other.buffer.words)
            for other in placed
            if other.last >= entry.first
        )
        words = entry.buffer.words
        candidates = _candidates(busy, words, arch.activation_words, bank_words, placed)
        if not candidates:
            live = sum(end - start for start, end in busy)
            raise UserError(
                f"the model does not fit target {arch.name}: activations {entry.buffer.name} need"
                f" {words * arch.depth} bytes beside {live * arch.depth} live ones, the scratchpad"
                f" has {arch.activation_bytes}; use a target with more activation_bytes"
            )

        def cost(base: int, words: int = words, side: int = entry.buffer.side) -> tuple[int, ...]:
            first_bank, last_bank = base // bank_words, (base + words - 1) // bank_words
            wrong = sum(
                bank % 2 != side % 2
                for bank in range(first_bank, last_bank + 1)
                if arch.activation_banks > 1
            )
            recent = max(
                (
                    other.last
                    for other in placed
                    if other.buffer.base < base + words
                    and base < other.buffer.base + other.buffer.words
                ),
                default=-1,
            )
            return (wrong, recent, base)

        entry.buffer.base = min(candidates, key=cost)
        placed.append(entry)
        top = max(top, entry.buffer.base + words)
    check_plan(steps, arch)
    return top


def _candidates(
    busy: list[tuple[int, int]], words: int, capacity: int, bank_words: int, placed: list[Lifetime]
) -> list[int]:
    """Bases at which ``words`` words are free: edges of buffers and banks."""
    edges = {0, *(end for _, end in busy), *range(0, capacity, bank_words)}
    edges |= {other.buffer.base + other.buffer.words for other in placed[-64:]}
    return [
        base
        for base in sorted(edges)
        if base + words <= capacity
        and all(base + words <= start or end <= base for start, end in busy)
    ]


def check_plan(steps: list[Step], arch: ArchConfig) -> None:
    """Prove that no two buffers alive at the same time share a word and all are inside."""
    entries = lifetimes(steps)
    for index, a in enumerate(entries):
        if not 0 <= a.buffer.base <= arch.activation_words - a.buffer.words:
            raise AssertionError(f"buffer {a.buffer.name} leaves the scratchpad")
        for b in entries[index + 1 :]:
            alive = a.first <= b.last and b.first <= a.last
            apart = (
                a.buffer.base + a.buffer.words <= b.buffer.base
                or b.buffer.base + b.buffer.words <= a.buffer.base
            )
            if alive and not apart:
                raise AssertionError(f"buffers {a.buffer.name} and {b.buffer.name} overlap")
