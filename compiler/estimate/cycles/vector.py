"""The vector unit: drains accumulator banks chunk by chunk, and normalises."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator
from itertools import accumulate

from moesaic.compiler.estimate.cycles.frame import Frame, Process, Time
from moesaic.compiler.estimate.cycles.sizes import field, store_beats
from moesaic.compiler.schedule.steps import Step
from moesaic.spec import layout
from moesaic.spec.drains import DRAINS, Destination, DrainKind, Function, Operand, Wide, takes_pairs
from moesaic.spec.isa import Drain, Opcode, Unit

SLOW = (Destination.LOGITS, Destination.OUTPUT)
"""Destinations that may take less than a chunk per cycle; so do activations of two planes."""


class Vector:
    """Executes DRAIN and NORM as ``hw/vector`` does: one chunk of ``lanes`` values per cycle, or a
    pair of them, unless a destination is slower."""

    def __init__(self, frame: Frame) -> None:
        self.frame, self.arch, self.timing = frame, frame.arch, frame.timing
        self.free = 0.0  # the next instruction may be taken
        self.updated = -100.0  # last residual update issued
        self.groups = 0
        self.blocks = 0
        self.routes = self.scored = 0  # ROUTEs that have all their rows; rows that the next one has
        self.stored = 0
        stores = (frame.steps[position] for position in frame.of_unit[Unit.STORE])
        self.store_ends = list(accumulate(field(step, "words") for step in stores))
        self.softmax: list[float] = []
        self.attentions = 0
        self.offered = 0.0  # the last chunk with a slow destination has left

    def process(self) -> Process:
        """All DRAINs and NORMs in program order."""
        frame = self.frame
        for number, position in enumerate(frame.of_unit[Unit.VECTOR]):
            step, rows = frame.steps[position], frame.rows[position]
            seen = yield from frame.dispatched[Unit.VECTOR].at(number)
            tokens = yield from frame.tokens(position)
            here = seen + self.timing.queue_register
            taken = max(self.free, here + self.timing.grant, tokens)
            frame.taken[Unit.VECTOR].append(taken)
            is_norm = step.opcode is Opcode.NORM
            start = taken + (self.timing.norm_start if is_norm else self.timing.drain_start)
            if is_norm:
                frame.work[position] = rows * field(step, "words")
                frame.began[position] = start
                last, left = yield from self._norm(step, rows, start)
            elif rows:
                frame.work[position] = yield from self._drain(position, rows, start)
                last, left = self.free - 1, self.offered
            else:
                last = left = frame.began[position] = start
            self.free = last + 1
            token = max(last + self.timing.chunk_token, left + 2)
            frame.finished[Unit.VECTOR].append(token)

    def _norm(
        self, step: Step, rows: int, start: float
    ) -> Generator[None, None, tuple[float, float]]:
        """One word per cycle once the first row's sums are there; three writes if wide.

        Returns the times of the last issue and of the last word written.
        """
        timing = self.timing
        start = max(start, self.updated + timing.update)
        words = field(step, "words")
        reads = rows * words
        first = start + words + timing.statistics
        last = first + reads - 1
        left = last + timing.chunk
        if field(step, "store"):
            cycles = yield from self._send(reads, first)
            last = max(last, self._last_issue(first, reads, cycles) - 1)
            left = max(left, self.offered)
        elif field(step, "wide"):
            # Words of a pair have a place, and each of their three writes, together.
            places = rows * (layout.words(words, 2) if self.arch.chunk_pairs else words)
            left = max(left, first + timing.chunk + 3 * places)
            slots = min(places, timing.chunk_slots)
            last = max(last, left - timing.chunk - 3 * slots + slots * reads // places)
        return last, left

    def _drain(self, position: int, rows: int, start: float) -> Generator[None, None, int]:
        """All groups; sets ``free`` to the cycle after the last chunk and returns the chunks."""
        frame, arch, timing = self.frame, self.arch, self.timing
        step = frame.steps[position]
        drain, wide = Drain(field(step, "kind")), bool(field(step, "wide"))
        kind, rotary = DRAINS[drain], field(step, "rotary")
        n_tiles, left = field(step, "n_tiles"), field(step, "columns")
        if kind.function is Function.EXPONENTIAL:
            left = layout.words(left, arch.depth) * arch.depth
        if kind.function is Function.UPDATE:
            start = max(start, self.updated + timing.update_again)
        if kind.operand is Operand.SCALED_ROW:
            start = max(start, self.softmax[self.attentions] + timing.row_scale)
            self.attentions += 1
        lanes = arch.most_lanes if takes_pairs(drain, wide) else arch.lanes
        # A row of all column tiles at a time, and not tile by tile.
        whole_rows = kind.rows_outside or field(step, "paired") or rotary
        slow = kind.destination in SLOW or (kind.wide is not Wide.NEVER and wide)
        at, issued = start, 0
        for _ in range(field(step, "groups")):
            at = max(at, (yield from frame.full.at(self.groups)))
            tiles, rest = divmod(max(0, min(left, n_tiles * arch.width)), arch.width)
            left -= n_tiles * arch.width
            chunks = tiles * layout.words(arch.width, lanes) + layout.words(rest, lanes)
            if kind.parameters:
                there = yield from frame.parameters.at(self.blocks + n_tiles - 1)
                at = max(at, there)
            if not issued:
                frame.began[position] = at
            if whole_rows:
                steps = rows * chunks * (2 if rotary else 1)
            else:  # a tile without columns: one step
                steps = rows * chunks + n_tiles - tiles - bool(rest)
            issued += steps
            at = (yield from self._issue(step, kind, rows, steps, at)) if slow else at + steps
            if kind.parameters:
                self.blocks += n_tiles
                frame.consumed.extend([at] * n_tiles)
            frame.released.append(at)
            self.groups += 1
        self.free = at
        if kind.function is Function.UPDATE:
            self.updated = at - 1
        if kind.function is Function.EXPONENTIAL:
            self.softmax.append(at - 1)
        return issued

    def _issue(self, step: Step, kind: DrainKind, rows: int, chunks: int, at: float) -> Time:
        """Issue ``chunks`` from ``at`` on to a destination that may be slower; returns the cycle
        after the last one."""
        frame, arch, timing = self.frame, self.arch, self.timing
        cycles: float  # that the destination needs for them
        if kind.destination is Destination.LOGITS:
            position = frame.of_unit[Unit.ROUTER][self.routes]
            route = frame.steps[position]
            begin = max(at + timing.chunk, (yield from frame.collecting.at(self.routes)))
            per_row = max(chunks // rows + 1, field(route, "top_k"), arch.rank_cycles)
            if field(route, "corrected"):
                per_row = max(per_row, field(route, "experts") + chunks // rows)
            # Corrections come in front of the tokens.
            if self.scored == field(route, "corrected"):
                frame.began[position] = begin
            self.scored += rows
            if self.scored == frame.rows[position] + field(route, "corrected"):
                self.routes, self.scored = self.routes + 1, 0
            cycles = rows * per_row
            self.offered = max(self.offered, begin) + cycles
            frame.logits.put(rows, self.offered)
        elif kind.destination is Destination.OUTPUT:
            cycles = yield from self._send(chunks, at)
        else:
            halved = field(step, "paired") or field(step, "rotary")
            cycles = 2 * (chunks // 2 if halved else chunks)
            self.offered = max(self.offered, at + timing.chunk) + cycles
        return max(at + chunks, self._last_issue(at, chunks, cycles))

    def _last_issue(self, at: float, chunks: int, cycles: float) -> float:
        """The cycle after the last of ``chunks`` was issued, whose destination takes ``cycles``."""
        # The last chunks wait behind the pipeline and not in front of it.
        waiting = min(chunks, self.timing.chunk_slots) * cycles / chunks
        return max(at + chunks, self.offered - self.timing.chunk - waiting)

    def _send(self, chunks: int, at: float) -> Time:
        """Hand ``chunks``, issued from ``at`` on, to their STORE; the cycles that it takes."""
        frame, arch, timing = self.frame, self.arch, self.timing
        begin = at + timing.chunk
        number = self._store_of(self.stored + chunks)
        begin = max(begin, (yield from frame.storing.at(number)))
        self.stored += chunks
        position = frame.of_unit[Unit.STORE][number]
        step = frame.steps[position]
        frame.began[position] = frame.began[position] or begin
        beats = chunks * store_beats(step, arch)
        # The memory serves weights first where both share a port.
        alone = arch.output_ports == 1 or field(step, "single")
        sent = frame.data.serve(
            beats, begin if alone else max(begin, frame.weights.time), write=True
        )
        self.offered = max(max(begin, self.offered) + beats, sent - timing.store_buffer)
        frame.stored.put(chunks, max(self.offered, sent))
        return self.offered - begin

    def _store_of(self, chunk: int) -> int:
        """Number of the STORE that takes chunk number ``chunk`` (from 1)."""
        number = bisect_left(self.store_ends, chunk)
        if number == len(self.store_ends):
            raise AssertionError("more output chunks than the STOREs take")
        return number
