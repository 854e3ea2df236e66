"""The matrix unit: a loader of stationary tiles ahead of a streamer of activation words."""

from __future__ import annotations

from moesaic.compiler.estimate.cycles.frame import Frame, Process, Time
from moesaic.compiler.estimate.cycles.sizes import field, wide_tiles, words_per_row
from moesaic.compiler.schedule.steps import Step
from moesaic.spec.isa import FROM_RING, Stationary, Unit


class Matrix:
    """Executes MATMULs tile by tile, as ``hw/matrix`` does.

    The loader has one tile ready while the streamer uses another one. It takes an instruction as
    soon as it is through with the last one, while the streamer may be two behind.
    """

    def __init__(self, frame: Frame) -> None:
        self.frame, self.arch, self.timing = frame, frame.arch, frame.timing
        self.loader = 0.0  # the loader may begin with something new
        self.shadow_free = 0.0  # the last tile was put to use: the next may be loaded
        self.loop = 0.0  # the streamer's loop may take a job
        self.issued = -1.0  # last word requested
        self.owed = 0.0  # the streamer had taken the tokens of its last job
        self.job_taken: list[float] = []
        self.groups = 0
        self.blocks = 0
        self.chunks = 0
        self.segments = 0
        self.late = "tile loads"  # why the next tile is not ready earlier
        self.bank_words = self.arch.activation_words // self.arch.activation_banks

    def process(self) -> Process:
        """All MATMULs in program order."""
        frame = self.frame
        for number, position in enumerate(frame.of_unit[Unit.MATRIX]):
            step, rows = frame.steps[position], frame.rows[position]
            seen = yield from frame.dispatched[Unit.MATRIX].at(number)
            accepted = max(self.loader, seen + self.timing.queue_register)
            frame.taken[Unit.MATRIX].append(accepted)
            at = accepted + 1
            ring = field(step, "stationary") in FROM_RING
            own_tokens = bool(field(step, "predicated")) or not ring
            tokens = yield from frame.tokens(position)
            if own_tokens:
                at = max(at, self.owed + 1) + self.timing.grant
                at = max(at, tokens) + (3 if field(step, "predicated") else 1)
            if number > self.timing.job_slots:
                at = max(at, self.job_taken[number - self.timing.job_slots] + 1)
            self.loader = at + 1
            # Tokens are asked for as soon as the last job is at work.
            granted = 0.0
            if not own_tokens and step.wait:
                granted = max(at + self.timing.job + self.timing.grant, tokens)
            start = self._take_job(at, granted, own_tokens)
            if field(step, "predicated") and (ring or field(step, "parameters")):
                yield from self._segment(position, rows)
            if rows:
                yield from self._loop_nest(position, rows, start)
                frame.work[position] = words_per_row(step) * rows
                frame.words_left -= frame.work[position]
            else:
                idle = max(self.issued + 1, start + self.timing.request)
                frame.waits[position]["order"] += idle - self.issued
                frame.began[position] = self.issued = idle
                self.loop = start + 1
            frame.issued = self.issued
            frame.finished[Unit.MATRIX].append(self.issued + self.timing.word_to_row)

    def _take_job(self, handed_on: float, granted: float, own_tokens: bool) -> float:
        """The streamer's loop takes a job, and its tokens; returns when it begins to count."""
        taken = max(handed_on + self.timing.job, self.loop, granted)
        self.job_taken.append(taken)
        if not own_tokens:
            self.owed = taken
        return taken + 1

    def _segment(self, position: int, rows: int) -> Process:
        """Learn whether the words of a predicated instruction come; drop them if useless."""
        frame = self.frame
        while len(frame.fetched) <= self.segments:
            yield
        known, fetched = frame.fetched[self.segments]
        self.segments += 1
        if known > self.loader:
            self.late = "order"
        self.loader = max(self.loader, known) + 1
        if not rows and fetched:
            for words in frame.chunks_of[position]:
                yield from self._pop(words)

    def _pop(self, words: int, cycles: int = 1) -> Time:
        """Take a chunk of the ring, one word in so many cycles; returns when the last one goes."""
        arrived = self.frame.arrived.times
        while len(arrived) <= self.chunks:
            yield
        return self._take(arrived[self.chunks], words, cycles)

    def _take(self, there: float, words: int, cycles: int = 1) -> float:
        """The same of a chunk that is complete in the ring by ``there``."""
        self.chunks += 1
        last = self.loader + words * cycles - 1
        there = there + self.timing.ring + cycles - 1
        if there > last:
            last, self.late = there, "weights"
        self.frame.popped.put(words, last)
        self.loader = last + 1
        return last

    def _loop_nest(self, position: int, rows: int, start: float) -> Process:
        frame, timing = self.frame, self.timing
        step, waits, arrived = frame.steps[position], frame.waits[position], frame.arrived.times
        source = field(step, "stationary")
        ring = source in FROM_RING
        tile_words = self.arch.segment_tile_words(source)
        tile_cycles = self.arch.tile_ring_words // tile_words
        parameters = field(step, "parameters")
        k_tiles, n_tiles = field(step, "k_tiles"), field(step, "n_tiles")
        spacing = max(rows, timing.pass_distance)
        pause = spacing - rows
        # Of every k-tile: words, from the first to the last one, and those among them that count.
        wide = wide_tiles(step)
        passes = [(spacing + rows, 2 * rows)] * wide + [(rows, rows)] * (k_tiles - wide)
        streams = self._banks(step, "stream", 0, rows)
        earliest = start + timing.request
        streamed = 0
        for group in range(field(step, "groups")):
            for n in range(n_tiles):
                if parameters:
                    yield from self._parameters()
                for k, (words, counted) in enumerate(passes):
                    if ring:
                        # A register between may hold the first word while the store is full.
                        self.loader = max(self.loader, self.shadow_free - timing.codes)
                        while len(arrived) <= self.chunks:
                            yield
                        there = arrived[self.chunks]
                        tile = timing.codes + self._take(there, tile_words, tile_cycles)
                    else:
                        tile = self._load_operand(step, group * n_tiles + n, k, streams)
                    bank = (yield from self._bank()) if n == k == 0 else 0.0
                    claim = max(earliest, tile, self.issued + 1 + pause, bank)
                    waited = claim - self.issued - 1
                    if waited:
                        # It is put down to what came last.
                        if bank == claim:
                            why = "vector unit"
                        elif tile == claim:
                            why = self.late
                        else:
                            why = "order" if earliest == claim else "short passes"
                        waits[why] += waited
                    if words > counted:
                        waits["short passes"] += words - counted
                    if not streamed:
                        frame.began[position] = claim
                    self.late = "tile loads"
                    self.shadow_free = claim + 1
                    self.issued = claim + words - 1
                    streamed += counted
            frame.full.append(self.issued + timing.word_to_row)
        self.loop = max(start + streamed, self.issued - timing.request_slots + 3)

    def _bank(self) -> Time:
        """When the next group's accumulator bank is free; two are in use in turn."""
        group = self.groups
        self.groups += 1
        if group < 2:
            return 0.0
        return (yield from self.frame.released.at(group - 2))

    def _parameters(self) -> Process:
        """Forward a parameter block as soon as the vector unit has room for it."""
        frame = self.frame
        blocks = self.arch.parameter_blocks
        if self.blocks >= blocks:
            room = yield from frame.consumed.at(self.blocks - blocks)
            if room > self.loader:
                self.loader, self.late = room, "vector unit"
        self.blocks += 1
        last = yield from self._pop(self.arch.parameter_ring_words)
        frame.parameters.append(last + 1)

    def _banks(self, step: Step, operand: str, first: int, count: int) -> range:
        """Banks that some rows of the ``stream`` or the ``stationary`` operand lie in."""
        base, stride = field(step, f"{operand}_base"), field(step, f"{operand}_stride")
        start, last = base + first * stride, base + (first + max(count, 1) - 1) * stride
        return range(start // self.bank_words, last // self.bank_words + 1)

    def _load_operand(self, step: Step, n: int, k: int, streams: range) -> float:
        """Read the existing words of a tile of activations, one per cycle; where words are streamed
        from the same bank, those go first."""
        width, depth = self.arch.width, self.arch.depth
        existing = field(step, "stationary_rows")
        if field(step, "stationary") == Stationary.COLUMNS:
            first, count = n * width, min(width, existing - n * width)
            words = count
        else:
            first, count = k * depth, min(depth, existing - k * depth)
            words = count * (width // depth)
        banks = self._banks(step, "stationary", first, count)
        clash = streams.start < banks.stop and banks.start < streams.stop
        begin = max(self.loader, self.shadow_free)
        if clash:
            begin = max(begin, self.issued + 1)
        last = begin + max(words, 1) - 1
        self.loader = last + 1
        return last + self.timing.operand
