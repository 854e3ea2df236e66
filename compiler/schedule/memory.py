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

from collections.abc import Iterator
from itertools import accumulate

from moesaic.compiler.schedule.places import Lifetime, place_all
from moesaic.compiler.schedule.steps import Buffer, Step, conflict
from moesaic.spec import isa
from moesaic.spec.arch import ACCUMULATOR_BANKS, ArchConfig
from moesaic.spec.errors import UserError


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
    (both checked).

    Raises
    ------
    UserError
        The live buffers do not fit into the scratchpad.
    """
    entries = lifetimes(steps, arch)
    worst, alive = _fullest(entries)
    fits = alive <= arch.activation_words and place_all(entries, arch)
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
    """Prove that all buffers are inside, that no two alive at the same time share a word, that
    runs of buffers are, and that no step waits for a MATMUL that ends only after it.

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
        if buffer.behind and buffer.behind.base != buffer.base + buffer.words:
            raise AssertionError(f"buffer {buffer.behind.name} is not behind {buffer.name}")
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
