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
from collections.abc import Generator, Iterable, Sequence

import numpy as np

from moesaic.compiler.schedule.steps import Step
from moesaic.hw.stream.sequencer import FETCHED_ENTRIES
from moesaic.hw.transfer.store import JOBS
from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.drains import DRAINS
from moesaic.spec.isa import FROM_RING, Drain, Opcode, Unit
from tests.functional import Deadlock
from tests.program_words import Hazard, ProgramWords, Work

__all__ = ["Hazard", "OrderModel", "check_order"]

Process = Generator[bool, None, None]
"""Yields whether it got on (True) or has to wait (False)."""

OUTCOMES = FETCHED_ENTRIES
"""Predicated fetches decided and not met by their MATMUL (``hw/stream/sequencer.py``)."""
ROW_SCALES = 2
"""Blocks of rows between SOFTMAX and ATTENTION (``hw/vector/row_scale.py``)."""
STORES = JOBS
"""STOREs that wait for the responses of the memory (``hw/transfer/store.py``)."""


class OrderModel(ProgramWords):
    """Runs one program in random orders.

    Raises
    ------
    Hazard
        Even in program order a word is read that nobody has written, or lies outside its memory.
    """

    def run(self, seed: int = 0) -> None:
        """Run the whole program once, units in the random order of ``seed``.

        Raises
        ------
        Hazard
            The order between two units is not what the program says.
        Deadlock
            No unit can go on.
        """
        self.writer = self.nobody()
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
        ring = values["stationary"] in FROM_RING
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
                    tiles = values["k_tiles"] * arch.segment_tile_words(values["stationary"])
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
                self.collecting -= work.rows
                assert self.collecting >= 0
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
        self.collecting = work.values["rows"] + work.values["corrected"]
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
