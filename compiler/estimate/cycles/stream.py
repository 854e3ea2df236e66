"""The weight stream: what arrives in the ring, and when."""

from __future__ import annotations

from moesaic.compiler.estimate.cycles.frame import Frame, Process
from moesaic.compiler.estimate.cycles.sizes import field
from moesaic.spec.isa import Opcode, Unit


class Stream:
    """Executes STREAMs as ``hw/stream`` does, a chunk (tile or parameter block) at a time.

    All ports move together: a line is a beat of each.
    """

    def __init__(self, frame: Frame) -> None:
        self.frame, self.arch, self.timing = frame, frame.arch, frame.timing
        arch = self.arch
        self.lines_per_word = arch.ring_read_bytes // arch.line_bytes
        skew = self.timing.skew_beats // self.lines_per_word
        self.capacity = arch.ring_words + self.timing.ring + skew
        self.pending = [
            position for position in frame.of_unit[Unit.MATRIX] if frame.chunks_of[position]
        ]
        self.next_segment = 0
        self.ends: list[int] = []  # of the fetched commands, in ring words
        self.done: list[float] = []

    def process(self) -> Process:
        """All STREAMs in program order."""
        frame, timing = self.frame, self.timing
        last = 0.0
        routes = {
            field(frame.steps[position], "sequence"): number
            for number, position in enumerate(frame.of_unit[Unit.ROUTER])
        }
        for number, position in enumerate(frame.of_unit[Unit.STREAM]):
            step = frame.steps[position]
            seen = yield from frame.dispatched[Unit.STREAM].at(number)
            go = max(seen + 2, last + 3)
            if step.wait:
                go = max(go + timing.grant, (yield from frame.tokens(position)))
            if number >= timing.segments:
                go = max(go, self.done[number - timing.segments])
            if len(self.ends) >= timing.commands:
                left = timing.outstanding_beats / self.lines_per_word
                ahead = self.ends[-timing.commands] - left
                go = max(go, (yield from frame.arrived.reached(ahead)))
            fetch = True
            if step.fields.get("predicated"):
                route = routes[field(step, "sequence")]
                published = yield from frame.finished[Unit.ROUTER].at(route)
                if not field(step, "speculate"):
                    go = max(go, published)
                fetch = published > go or frame.rows[position] > 0
                frame.fetched.append((go + timing.outcome, fetch))
            frame.taken[Unit.STREAM].append(max(seen, last + 1))
            last = go
            before = frame.weights.beats
            earliest = go + timing.command + frame.memory.latency
            frame.began[position] = max(frame.weights.time, earliest) if fetch else go
            yield from self._segment(field(step, "words"), go, fetch)
            frame.work[position] = round(frame.weights.beats - before)
            self.done.append(max(go, frame.weights.time if fetch else go))
            frame.finished[Unit.STREAM].append(self.done[-1] + 2)

    def _segment(self, words: int, go: float, fetch: bool) -> Process:
        """Fetch the chunks of the MATMULs that a command serves, or leave them out."""
        frame, timing = self.frame, self.timing
        arrived, popped, port = frame.arrived, frame.popped, frame.weights
        earliest = go + timing.command + frame.memory.latency
        while words:
            consumer = self.pending[self.next_segment]
            chunks = frame.chunks_of[consumer]
            self.next_segment += 1
            words -= sum(chunks)
            if not fetch:
                continue
            frame.ring_words[consumer] = sum(chunks)
            counts = bool(frame.rows[consumer])  # among those that have to come
            for chunk in chunks:
                time = port.serve(chunk * self.lines_per_word, earliest)
                frame.ring_left -= chunk * counts
                room = min(arrived.total, arrived.total + chunk - self.capacity)
                if room > 0:
                    freed = yield from popped.reached(room)
                    if freed > time:
                        time = port.hold(freed)
                arrived.put(chunk, time)
        if fetch:
            self.ends.append(arrived.total)


def check_segments(frame: Frame) -> None:
    """Streamed and consumed words must be the same, or the estimate would be of nonsense."""
    streamed = sum(field(s, "words") for s in frame.steps if s.opcode is Opcode.STREAM)
    consumed = sum(sum(chunks) for chunks in frame.chunks_of.values())
    if streamed != consumed:
        raise AssertionError(f"{streamed} ring words are streamed, {consumed} consumed")
