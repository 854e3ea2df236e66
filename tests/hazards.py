"""Order model of the instruction set: who reads and writes which word when, without any value.

It executes encoded programs piece by piece (groups of accumulators, tiles of weights, single
instructions in bounded queues) with the units in random order, bound by what binds the gateware:
tokens, two accumulator banks, the parameter blocks, the ring, the queues. Every word of the
scratchpads remembers who wrote it last. A read that sees another writer than in program order is
a hazard, whatever the values are; a program in which no unit can go on is a deadlock.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.schedule.steps import Step
from moesaic.hw.stream.sequencer import FETCHED_ENTRIES
from moesaic.hw.transfer.store import JOBS
from moesaic.spec import isa, layout, scratch, tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.drains import DRAINS, Destination, Wide
from moesaic.spec.isa import (
    Drain,
    Opcode,
    Space,
    Stationary,
    Streamed,
    Unit,
    Window,
)
from tests.functional import Deadlock

Words = NDArray[np.int64]
Process = Generator[bool, None, None]
"""Yields whether it got on (True) or has to wait (False)."""

OUTCOMES = FETCHED_ENTRIES
"""Predicated fetches decided and not met by their MATMUL (``hw/stream/sequencer.py``)."""
ROW_SCALES = 2
"""Blocks of rows between SOFTMAX and ATTENTION (``hw/vector/row_scale.py``)."""
STORES = JOBS
"""STOREs that wait for the responses of the memory (``hw/transfer/store.py``)."""


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


class OrderModel:
    """Runs one program in random orders.

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

    # What the program means.

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
        writer = self._nobody()
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

    def _nobody(self) -> Words:
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
            if values["stationary"] == Stationary.RING:
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

    # Running it.

    def run(self, seed: int = 0) -> None:
        """Run the whole program once, units in the random order of ``seed``.

        Raises
        ------
        Hazard
            The order between two units is not what the program says.
        Deadlock
            No unit can go on.
        """
        self.writer = self._nobody()
        self.tokens = {(giver, taker): 0 for giver in Unit for taker in Unit}
        self.queues: dict[Unit, deque[int]] = {unit: deque() for unit in Unit}
        self.sequence = 0
        self.ring = 0
        self.outcomes: deque[bool] = deque()
        self.filled = self.full = self.blocks = self.scales = 0
        self.collecting = 0
        self.storing = self.outputs = 0
        self.under_way: deque[int] = deque()
        order = random.Random(seed)
        running: dict[str, Process] = {"dispatch": self._dispatch()}
        running |= {unit.name: self._unit(unit) for unit in Unit}
        running["responses"] = self._responses(order.choice((0, 4, 64)))
        # Some units run far ahead where they can, in every run other ones.
        burst = {name: order.choice((1, 1, 4, 64)) for name in running}
        able = list(running)
        while running:
            if not able:
                raise Deadlock(self._heads(running))
            name = able[int(order.random() * len(able))]
            process, moved, steps = running[name], None, 0
            for moved in process:
                steps += moved
                if not moved or steps == burst[name]:
                    break
            else:
                del running[name]
                moved = True
            if steps or moved:
                able = list(running)
            if not moved and name in able:
                able.remove(name)

    def _heads(self, waiting: Iterable[str]) -> str:
        heads = {unit.name: self.works[q[0]] for unit, q in self.queues.items() if q}
        shown = [f"{n}: {w.opcode.name} {w.values}" for n, w in heads.items() if n in waiting]
        return "; ".join(shown) or f"waiting: {', '.join(sorted(waiting))}"

    def _dispatch(self) -> Process:
        for number, work in enumerate(self.works):
            unit = isa.UNIT_OF[work.opcode]
            assert unit is not None
            while len(self.queues[unit]) >= self.arch.queue_depth:
                yield False
            self.queues[unit].append(number)
            yield True

    def _unit(self, unit: Unit) -> Process:
        """All instructions of a unit, in order; its tokens first, those of others last."""
        body = {
            Opcode.STREAM: self._stream,
            Opcode.MATMUL: self._matmul,
            Opcode.DRAIN: self._drain,
            Opcode.ROUTE: self._routing,
            Opcode.NORM: self._norm,
        }
        for number in self.of_unit[unit]:
            work = self.works[number]
            givers = [other for other in Unit if work.values["wait"] >> other & 1]
            queue = self.queues[unit]
            while not queue or not all(self.tokens[giver, unit] for giver in givers):
                yield False
            # The gateware takes some instructions from the queue before their tokens are there.
            queue.popleft()
            for giver in givers:
                self.tokens[giver, unit] -= 1
            yield True
            if work.opcode is Opcode.STORE:
                yield from self._store(work)
                continue  # its tokens come with the responses
            if work.opcode in body:
                yield from body[work.opcode](number, work)
            else:
                self._touch(number, work, 0)
            self._give(unit, work)
            yield True

    def _give(self, unit: Unit, work: Work) -> None:
        """Give the tokens of an instruction that has ended."""
        for taker in Unit:
            if not work.values["signal"] >> taker & 1:
                continue
            self.tokens[unit, taker] += 1
            if self.tokens[unit, taker] >= 1 << isa.TOKEN_BITS:
                raise Hazard(f"{unit.name} has given {taker.name} too many tokens")

    def _touch(self, number: int, work: Work, group: int) -> None:
        """Read and write the words of one group."""
        if work.routing and work.routing != self.sequence:
            raise Hazard(f"instruction {number} sees routing {self.sequence}, not {work.routing}")
        if group < len(work.reads):
            seen = self.writer[work.reads[group]]
            if not np.array_equal(seen, work.seen[group]):
                wrong = int(np.flatnonzero(seen != work.seen[group])[0])
                raise Hazard(
                    f"instruction {number} ({work.opcode.name}) reads word"
                    f" {work.reads[group][wrong]} of instruction {seen[wrong]},"
                    f" not {work.seen[group][wrong]}"
                )
        if group < len(work.writes):
            self.writer[work.writes[group]] = number

    def _stream(self, number: int, work: Work) -> Process:
        values, left = work.values, work.values["words"]
        if values["predicated"]:
            while not (values["speculate"] or self.sequence == values["sequence"]):
                yield False
            while len(self.outcomes) >= OUTCOMES:
                yield False
            known = self.sequence == values["sequence"]
            fetch = not known or self.hit[values["sequence"]][values["expert"]]
            self.outcomes.append(fetch)
            left = left if fetch else 0
            yield True
        while left:
            room = min(left, self.arch.ring_words - self.ring)
            self.ring += room
            left -= room
            yield room > 0

    def _pop(self, words: int) -> Process:
        """Take ``words`` from the ring, as they come."""
        while words:
            there = min(words, self.ring)
            self.ring -= there
            words -= there
            yield there > 0

    def _matmul(self, number: int, work: Work) -> Process:
        values, arch = work.values, self.arch
        ring = values["stationary"] == Stationary.RING
        if values["predicated"] and ring:
            while not self.outcomes:
                yield False
            if not self.outcomes.popleft():
                if work.rows:
                    raise Hazard(f"instruction {number} has rows and no weights")
                return
        if not work.rows:
            yield from self._pop(values["ring_words"])
            return
        words = 0
        for group in range(values["groups"]):
            while self.filled >= 2:
                yield False
            self.filled += 1
            for _ in range(values["n_tiles"]):
                if values["parameters"]:
                    while self.blocks >= arch.parameter_blocks:
                        yield False
                    yield from self._pop(arch.parameter_ring_words)
                    self.blocks += 1
                    words += arch.parameter_ring_words
                if ring:
                    tiles = values["k_tiles"] * arch.tile_ring_words
                    words += tiles
                    yield from self._pop(tiles)
            self._touch(number, work, group)
            yield True
            self.full += 1
            yield True
        assert words == values["ring_words"]

    def _drain(self, number: int, work: Work) -> Process:
        values, kind = work.values, Drain(work.values["kind"])
        if not work.rows:
            return
        for group in range(values["groups"]):
            needed = values["n_tiles"] if DRAINS[kind].parameters else 0
            while not self.full or self.blocks < needed or not self._place(kind):
                yield False
            self._touch(number, work, group)
            yield True
            if kind is Drain.LOGITS:
                self.collecting -= 1
            if kind is Drain.OUTPUT:
                tiles = values["n_tiles"] * self.arch.width
                ends = (min(values["columns"], n * tiles) for n in (group, group + 1))
                before, done = (layout.words(end, self.arch.lanes) for end in ends)
                self.outputs += work.rows * (done - before)
            self.full -= 1
            self.filled -= 1
            self.blocks -= needed
            yield True
        self.scales += {Drain.SOFTMAX: 1, Drain.ATTENTION: -1}.get(kind, 0)

    def _place(self, kind: Drain) -> bool:
        """Whether the destination of a drain takes something."""
        match kind:
            case Drain.LOGITS:
                return self.collecting > 0
            case Drain.OUTPUT:
                return self.storing > self.outputs
            case Drain.SOFTMAX:
                return self.scales < ROW_SCALES
            case Drain.ATTENTION:
                return self.scales > 0
        return True

    def _routing(self, number: int, work: Work) -> Process:
        self.collecting = 1 + work.values["corrected"]  # the corrections are a drain of their own
        yield True
        while self.collecting:
            yield False
        self.sequence = work.values["sequence"]

    def _norm(self, number: int, work: Work) -> Process:
        if work.values["store"]:
            while self.storing <= self.outputs:
                yield False
            self.outputs += work.values["rows"] * work.values["words"]
        self._touch(number, work, 0)

    def _store(self, work: Work) -> Process:
        while len(self.under_way) >= STORES:
            yield False
        self.storing += work.values["words"]
        self.under_way.append(self.storing)
        yield True

    def _responses(self, latency: int) -> Process:
        """The ends of STOREs, ``latency`` turns behind their last chunk; others begin meanwhile."""
        for number in self.of_unit[Unit.STORE]:
            while not self.under_way or self.outputs < self.under_way[0]:
                yield False
            for _ in range(latency):
                yield True
            work = self.works[number]
            self._touch(number, work, 0)
            self.under_way.popleft()
            self._give(Unit.STORE, work)
            yield True


def check_order(
    arch: ArchConfig, program: bytes, seeds: Sequence[int], steps: Sequence[Step] = ()
) -> None:
    """Run ``program`` once for every seed: routing and order of the units follow from it.

    The ``steps`` that it was made of say which routings are constants.

    Raises
    ------
    Hazard, Deadlock
        As :class:`OrderModel` says.
    """
    fixed = {int(s.fields["sequence"]): s.queue_rows for s in steps if s.queue_rows}  # type: ignore[arg-type]
    for seed in seeds:
        OrderModel(arch, program, seed, fixed).run(seed)
