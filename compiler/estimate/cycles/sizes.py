"""Sizes that steps have: fields, rows, words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moesaic.compiler.schedule.steps import Address, Step
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Opcode, Streamed


def field(step: Step, name: str) -> int:
    """A field's value; addresses must have been planned."""
    value = step.fields.get(name, 0)
    return value.buffer.base + value.offset if isinstance(value, Address) else int(value)


def store_beats(step: Step, arch: ArchConfig) -> int:
    """Beats of a chunk of a STORE on each port that writes: a single one's are all on one port."""
    line = arch.data_port_bytes if field(step, "single") else arch.output_line_bytes
    return 2 * arch.lanes // line


def expert_rows(steps: Sequence[Step], given: Mapping[str, Sequence[int]]) -> list[int]:
    """Rows of every step: its own, or those of its expert.

    Experts share the choices of their layer equally, or as ``given`` by layer name; where a program
    says which they are, each has its own.
    """
    routed: dict[int, Sequence[int]] = {}
    for step in steps:
        if step.opcode is Opcode.ROUTE:
            choices, experts = field(step, "rows") * field(step, "top_k"), field(step, "experts")
            equal = [(choices + e) // experts for e in reversed(range(experts))]
            rows = step.queue_rows or given.get(step.label, equal)
            routed[field(step, "sequence")] = rows
    rows_of, now = [], 0
    for step in steps:
        if step.opcode is Opcode.ROUTE:
            now = field(step, "sequence")
        if step.fields.get("predicated"):
            # A STREAM comes in front of the routing that decides it.
            number = field(step, "sequence") if step.opcode is Opcode.STREAM else now
            rows_of.append(routed[number][field(step, "expert")])
        else:
            rows_of.append(field(step, "rows"))
    return rows_of


def tile_chunks(step: Step, arch: ArchConfig) -> list[int]:
    """Ring words of the parameter blocks and tiles of a MATMUL, in the order of use."""
    chunks: list[int] = []
    if field(step, "parameters"):
        chunks.append(arch.parameter_ring_words)
    if (source := field(step, "stationary")) in isa.FROM_RING:
        chunks += [arch.segment_tile_words(source)] * field(step, "k_tiles")
    return chunks * field(step, "n_tiles") * field(step, "groups")


def wide_tiles(step: Step) -> int:
    """The first k-tiles of the streamed operand, those that have two planes."""
    if field(step, "streamed") != Streamed.SIGNED16:
        return 0
    return min(field(step, "last_wide") + 1, field(step, "k_tiles"))


def words_per_row(step: Step) -> int:
    """Words that a MATMUL streams for each of its rows."""
    passes = field(step, "k_tiles") + wide_tiles(step)
    return passes * field(step, "n_tiles") * field(step, "groups")


def least_work(steps: Sequence[Step], rows: Sequence[int]) -> tuple[int, int]:
    """Words that the array takes, and ring words that are fetched whatever is known when: those of
    an expert that nobody chooses may be left out. ``rows`` has those of each step."""
    words = ring_words = 0
    for step, count in zip(steps, rows, strict=True):
        if step.opcode is Opcode.MATMUL and count:
            words += count * words_per_row(step)
            ring_words += field(step, "ring_words")
    return words, ring_words
