"""What a program means: which words of which memory each instruction reads and writes, in program
order and without any value. The order model (``tests/hazards.py``) runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moesaic.spec import isa, layout, scratch, tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.drains import DRAINS, Destination, Wide
from moesaic.spec.isa import (
    FROM_RING,
    Drain,
    Opcode,
    Space,
    Stationary,
    Streamed,
    Unit,
    Window,
)

Words = NDArray[np.int64]


def memory_sizes(arch: ArchConfig) -> dict[Space, int]:
    """Words of the memories, which follow one another."""
    return {
        Space.ACTIVATION: arch.activation_words,
        Space.RESIDUAL: arch.residual_words,
        Space.TABLE: tables.ACTIVATION_TABLES * tables.ACTIVATION_ENTRIES,
    }


class Hazard(Exception):
    """A read saw something else than in program order."""


@dataclass
class Work:
    """One instruction: the words that its groups read and write, residual words behind
    activation words, and the writers that its reads have to see."""

    opcode: Opcode
    values: dict[str, int]
    rows: int = 0
    routing: int = 0
    """Sequence number of the routing that a predicated instruction follows."""
    reads: list[Words] = field(default_factory=list)
    writes: list[Words] = field(default_factory=list)
    seen: list[Words] = field(default_factory=list)


class ProgramWords:
    """The instructions of one program, and the words of each.

    Parameters
    ----------
    arch
        Sizes.
    program
        Encoded instructions, END last.
    seed
        Of the routing; some experts get nothing.
    queue_rows
        Rows of each queue of the routings that are constants, by sequence number.

    Raises
    ------
    Hazard
        Even in program order a word is read that nobody has written, or lies outside its memory.
    """

    def __init__(
        self,
        arch: ArchConfig,
        program: bytes,
        seed: int = 0,
        queue_rows: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        self.arch, self._queue_rows = arch, queue_rows or {}
        size = isa.INSTRUCTION_BYTES
        decoded = [isa.decode(program[i : i + size]) for i in range(0, len(program), size)]
        assert decoded[-1].opcode is Opcode.END
        self.works = [Work(each.opcode, each.values) for each in decoded[:-1]]
        self.of_unit: dict[Unit, list[int]] = {unit: [] for unit in Unit}
        for number, work in enumerate(self.works):
            self.of_unit[isa.UNIT_OF[work.opcode]].append(number)  # type: ignore[index]
        drains = [w for w in self.works if w.opcode is Opcode.DRAIN]
        matmuls = [w for w in self.works if w.opcode is Opcode.MATMUL]
        self.drain_of = {id(matmul): drain for matmul, drain in zip(matmuls, drains, strict=True)}
        self.scratch_words = scratch.end_of_stores(arch, program) // (2 * arch.lanes)
        self._route(np.random.default_rng(seed))
        self._trace()

    def _route(self, rng: np.random.Generator) -> None:
        """Give every predicated instruction its rows."""
        queues: list[Words] = []
        sequence = 0
        self.queue_of: dict[int, Words] = {}
        self.hit: dict[int, list[bool]] = {}
        for work in self.works:
            values = work.values
            if work.opcode is Opcode.ROUTE:
                sequence, experts = values["sequence"], values["experts"]
                liked = rng.permutation(experts)[: rng.integers(values["top_k"], experts + 1)]
                chosen = np.array(
                    [rng.permutation(liked)[: values["top_k"]] for _ in range(values["rows"])]
                )
                if sequence in self._queue_rows:
                    counts = self._queue_rows[sequence]
                    chosen = rng.permutation(np.repeat(np.arange(experts), counts))[:, None]
                queues = [
                    np.flatnonzero((chosen == expert).any(axis=1)) + values["first_row"]
                    for expert in range(experts)
                ]
                self.hit[sequence] = [len(queue) > 0 for queue in queues]
            work.rows = values.get("rows", 0)
            if values.get("predicated"):
                work.routing = sequence
                if work.opcode is not Opcode.STREAM:
                    self.queue_of[id(work)] = queues[values["expert"]]
                    work.rows = len(queues[values["expert"]])

    def _trace(self) -> None:
        """Find the words of every instruction, and who writes what is read in program order."""
        writer = self.nobody()
        for number, work in enumerate(self.works):
            match work.opcode:
                case Opcode.MATMUL:
                    self._matmul_words(work)
                case Opcode.DRAIN:
                    self._drain_words(work)
                case Opcode.NORM:
                    self._norm_words(work)
                case Opcode.LOAD:
                    base, words = work.values["base"], work.values["words"]
                    space = Space(work.values["space"])
                    work.writes = [self._inside(base + np.arange(words), space)]
                    if work.values["window"] == Window.OUTPUT:
                        work.reads = [self._scratch(work)]
                case Opcode.STORE if work.values["single"]:
                    work.writes = [self._scratch(work)]
            for group, words in enumerate(work.reads):
                if group and words is work.reads[group - 1]:
                    work.seen.append(work.seen[-1])
                    continue
                work.seen.append(writer[words])
                if len(words) and work.seen[-1].min() < 0:
                    raise Hazard(f"instruction {number} reads what nobody has written")
            for words in work.writes:
                writer[words] = number

    def nobody(self) -> Words:
        """A writer for every word: those of the memories, and then of scratch."""
        return np.full(sum(memory_sizes(self.arch).values()) + self.scratch_words, -1, np.int64)

    def _scratch(self, work: Work) -> Words:
        """Words of scratch that a LOAD or a STORE names, behind those of the memories."""
        first = work.values["offset"] // (2 * self.arch.lanes)
        words = first + np.arange(work.values["words"])
        if words.max() >= self.scratch_words:
            raise Hazard(f"word {words.max()} of scratch is never stored")
        return words + sum(memory_sizes(self.arch).values())

    def _inside(self, words: Words, space: Space) -> Words:
        """Check the words of one memory, and find their place among those of all."""
        sizes = memory_sizes(self.arch)
        if len(words) and not 0 <= words.min() <= words.max() < sizes[space]:
            raise Hazard(f"word {words.max()} of the {space.name} memory does not exist")
        return words + sum(size for other, size in sizes.items() if other < space)

    def _matmul_words(self, work: Work) -> None:
        values, arch = work.values, self.arch
        groups, n_tiles, k_tiles = (values[name] for name in ("groups", "n_tiles", "k_tiles"))
        if not work.rows:
            return
        if work.rows * n_tiles > arch.accumulator_rows:
            raise Hazard(f"{work.rows} rows of {n_tiles} tiles exceed an accumulator bank")
        rows = self.queue_of[id(work)] if values["gather"] else np.arange(work.rows)
        streamed = values["stream_base"] + (
            rows[:, None] * values["stream_stride"] + np.arange(k_tiles)
        )
        if values["streamed"] == Streamed.SIGNED16:
            high = streamed[:, : values["last_wide"] + 1]
            streamed = np.concatenate([high.ravel(), streamed.ravel() + values["plane_stride"]])
        streamed = self._inside(streamed.ravel(), Space.ACTIVATION)
        for group in range(groups):
            if values["stationary"] in FROM_RING:
                work.reads.append(streamed)
                continue
            tiles = range(group * n_tiles, (group + 1) * n_tiles)
            operand = np.concatenate([self._stationary_words(work, n) for n in tiles])
            operand = self._inside(operand, Space.ACTIVATION)
            work.reads.append(np.concatenate([streamed, operand]))

    def _stationary_words(self, work: Work, n: int) -> Words:
        """Words of column tile ``n`` that matter to its DRAIN."""
        values, arch = work.values, self.arch
        base, stride, limit = (values[f"stationary_{x}"] for x in ("base", "stride", "rows"))
        match Stationary(values["stationary"]):
            case Stationary.COLUMNS:
                columns = np.arange(n * arch.width, min(limit, (n + 1) * arch.width))
                inner = np.arange(values["k_tiles"])
                return (base + columns[:, None] * stride + inner).ravel()
            case Stationary.ROWS:
                each = arch.width // arch.depth
                valid = layout.words(self.drain_of[id(work)].values["columns"], arch.depth)
                inner = np.arange(n * each, min(valid, (n + 1) * each))
                return (base + np.arange(limit)[:, None] * stride + inner).ravel()
        raise AssertionError("weights of the ring are no activations")

    def _drain_words(self, work: Work) -> None:
        values, arch = work.values, self.arch
        kind = Drain(values["kind"])
        destination = DRAINS[kind].destination
        if destination in (Destination.LOGITS, Destination.OUTPUT) or not work.rows:
            return
        residual = destination is Destination.NONE
        space, size = (Space.RESIDUAL, arch.lanes) if residual else (Space.ACTIVATION, arch.depth)
        rows = self.queue_of[id(work)] if values["scatter"] else np.arange(work.rows)
        columns = values["n_tiles"] * arch.width
        for group in range(values["groups"]):
            first, last = group * columns, min((group + 1) * columns, values["columns"])
            if values["paired"]:
                first, last = first // 2, last // 2
            inner = np.arange(first // size, layout.words(max(last, first), size))
            words = values["base"] + rows[:, None] * values["stride"] + inner
            if DRAINS[kind].wide is not Wide.NEVER and values["wide"]:
                words = np.concatenate([words, words + values["plane_stride"]])
            work.writes.append(self._inside(words.ravel(), space))
        if residual:
            work.reads = list(work.writes)
        if values["rotary"]:
            pairs = layout.words(values["columns"], 2 * arch.lanes)
            inner = np.arange(min(2 * pairs, values["angle_words"]))
            read = np.arange(work.rows)[:, None] * values["angle_words"] + inner
            work.reads = [self._inside((values["angles"] + read).ravel(), Space.RESIDUAL)]

    def _norm_words(self, work: Work) -> None:
        values = work.values
        rows = np.arange(values["rows"])[:, None]
        source = values["source_base"] + rows * values["source_stride"]
        source = source + np.arange(values["words"])
        words = layout.words(values["channels"], self.arch.depth)
        narrow = (values["base"] + rows * values["stride"] + np.arange(words)).ravel()
        planes = range(3 if values["wide"] else 1)
        written = np.concatenate([narrow + plane * values["plane_stride"] for plane in planes])
        work.reads = [self._inside(source.ravel(), Space.RESIDUAL)]
        work.writes = [] if values["store"] else [self._inside(written, Space.ACTIVATION)]
