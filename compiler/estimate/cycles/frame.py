"""One frame in the making: instructions, the times of their events, and who waits for whom."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from math import inf

from moesaic.compiler.estimate.cycles.ports import DataOfBus, Port, WeightsOfBus, weight_port
from moesaic.compiler.estimate.cycles.sizes import expert_rows, least_work, tile_chunks
from moesaic.compiler.estimate.cycles.timing import Memory, Timing
from moesaic.compiler.schedule.steps import Step
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Unit

Process = Generator[None, None, None]
"""Gives way wherever it needs a time that nobody has published yet."""
Time = Generator[None, None, float]


_ENDED = object()
WAITS = ("weights", "vector unit", "order", "tile loads", "short passes")
"""What the array waits for: weights that have not arrived; an accumulator bank or a parameter
buffer that the vector unit has not given back; results of other units, or the instruction; a tile
that takes longer to load than the last one was used; the least distance of two passes over the
same accumulators."""


class ProgramHangs(AssertionError):
    """The units wait for each other. The memory plan rules this out: it is not a user's error."""


class Times(list[float]):
    """Times of the first, second, ... event of one kind, in cycles."""

    def at(self, index: int) -> Time:
        """Time of event ``index``, as soon as it is known."""
        while len(self) <= index:
            yield
        return self[index]


class Flow:
    """How many items have passed when; ``total`` by now."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.times: list[float] = []
        self.total = 0

    def put(self, items: int, time: float) -> None:
        """``items`` more have passed by ``time``."""
        self.total += items
        self.counts.append(self.total)
        self.times.append(time)

    def reached(self, count: float) -> Time:
        """When item number ``count`` (from 1) had passed; time 0 for none."""
        if count <= 0:
            return 0.0
        while self.total < count:
            yield
        return self.times[bisect_left(self.counts, count)]


class Frame:
    """What the units' processes share.

    Attributes
    ----------
    rows
        Rows of every step.
    of_unit
        Positions of a unit's steps, in order.
    dispatched, taken, finished
        By position: the unit sees the step; the step has left the queue; all its effects are
        visible and its tokens count.
    chunks_of
        By position of a MATMUL: ring words of its parameter blocks and tiles.
    full, released
        Accumulator banks handed to the vector unit, and back.
    parameters, consumed
        Parameter blocks handed to the vector unit, and used up.
    arrived
        Ring words of the chunks (tiles and parameter blocks) that are complete in the weight ring.
    popped
        Ring words taken.
    fetched
        Predicated segments: (known to the matrix unit, words are there).
    collecting, logits
        By number of the ROUTE: it takes logits; tokens that have reached the router.
    storing, stored
        By number of the STORE: it takes chunks; chunks that were written.
    work
        By position: cycles in which its unit worked on data.
    began
        By position: when its unit began to work on data; the same as its end without any.
    waits
        By position of a MATMUL: cycles that the array waited before its words, by reason
        (:data:`WAITS`).
    issued
        When the array has taken its last word.
    data_share
        Beats per cycle that the data port sustains.
    ring_words
        By position of a MATMUL: words fetched for it.
    words_left, ring_left
        Words that the array has to take behind ``issued``, and ring words that have to come behind
        those that ``weights`` has served.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        arch: ArchConfig,
        memory: Memory,
        given: Mapping[str, Sequence[int]],
    ) -> None:
        self.steps, self.arch, self.memory = steps, arch, memory
        self.timing = Timing.of(arch)
        self.rows = expert_rows(steps, given)
        self.of_unit: dict[Unit, list[int]] = {unit: [] for unit in Unit}
        for position, step in enumerate(steps):
            self.of_unit[step.unit].append(position)
        self.givers = self._match_tokens()
        self.chunks_of = {
            position: tile_chunks(steps[position], arch) for position in self.of_unit[Unit.MATRIX]
        }
        self.dispatched: dict[Unit, Times] = {unit: Times() for unit in Unit}
        self.taken: dict[Unit, Times] = {unit: Times() for unit in Unit}
        self.finished: dict[Unit, Times] = {unit: Times() for unit in Unit}
        self.full, self.released = Times(), Times()
        self.parameters, self.consumed = Times(), Times()
        self.arrived, self.popped = Flow(), Flow()
        self.fetched: list[tuple[float, bool]] = []
        self.collecting, self.logits = Times(), Flow()
        self.storing, self.stored = Times(), Flow()
        self.weights, self.data = weight_port(memory, self.timing), Port(memory, self.timing)
        self.data_share = memory.share
        if isinstance(self.weights, WeightsOfBus):
            assert memory.bus is not None
            self.data_share = memory.bus.data
            self.data = DataOfBus(memory, self.timing, memory.bus, self.weights)
        self.work = [0] * len(steps)
        self.began = [0.0] * len(steps)
        self.waits: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.issued = 0.0
        self.ring_words = [0] * len(steps)
        self.words_left, self.ring_left = least_work(steps, self.rows)

    def _match_tokens(self) -> list[list[tuple[Unit, int]]]:
        """For every step, the (unit, number) of the steps whose tokens it takes.

        Units give and take in program order: the n-th token taken is the n-th one given.
        """
        given: dict[tuple[Unit, Unit], list[int]] = defaultdict(list)
        number: dict[Unit, int] = defaultdict(int)
        for step in self.steps:
            for taker in step.signal:
                given[step.unit, taker].append(number[step.unit])
            number[step.unit] += 1
        next_token: dict[tuple[Unit, Unit], int] = defaultdict(int)
        result = []
        for step in self.steps:
            mine = []
            for giver in sorted(step.wait):
                pair = (giver, step.unit)
                mine.append((giver, given[pair][next_token[pair]]))
                next_token[pair] += 1
            result.append(mine)
        return result

    def tokens(self, position: int) -> Time:
        """When all tokens of the step are granted."""
        time = 0.0
        for unit, number in self.givers[position]:
            time = max(time, (yield from self.finished[unit].at(number)) + self.timing.grant)
        return time

    def run(self, processes: Iterable[Process], below: float = inf) -> float:
        """Run all processes to their end, or until the frame can't take less than ``below`` cycles
        any more; returns its cycles, or those that it takes at least.

        Raises
        ------
        ProgramHangs
            They wait for each other.
        """
        running: list[Process] = list(processes)
        seen = -1
        while running:
            running = [process for process in running if next(process, _ENDED) is not _ENDED]
            now = self._progress() - len(running)
            if running and now == seen:
                raise ProgramHangs("the units wait for each other: the program would hang")
            seen = now
            if self._least() > below:
                return self._least()
        last = max(times[-1] for times in self.finished.values() if times)
        return last + self.timing.end

    def _least(self) -> float:
        """Cycles that the frame takes at least, as far as it has come."""
        lines = self.ring_left * self.arch.ring_read_bytes // self.arch.line_bytes
        return max(self.issued + self.words_left, self.weights.least(lines))

    def _progress(self) -> int:
        lists = [*self.dispatched.values(), *self.taken.values(), *self.finished.values()]
        lists += [self.full, self.released, self.parameters, self.consumed]
        lists += [self.collecting, self.storing]
        flows = (self.arrived, self.popped, self.logits, self.stored)
        return sum(map(len, lists)) + sum(len(f.times) for f in flows) + len(self.fetched)
