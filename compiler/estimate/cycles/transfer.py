"""Dispatch, router, load and store unit."""

from __future__ import annotations

from moesaic.compiler.estimate.cycles.frame import Frame, Process
from moesaic.compiler.estimate.cycles.sizes import field, store_beats
from moesaic.spec import isa, layout
from moesaic.spec.isa import Space, Unit


def dispatch(frame: Frame) -> Process:
    """Instructions reach the units' queues in program order, as memory and queues allow."""
    timing, arch = frame.timing, frame.arch
    beats = isa.INSTRUCTION_BYTES // arch.data_port_bytes
    delay = timing.fetch + frame.memory.latency
    # What is requested before anything else delays the first loads; END is one more.
    early = min(len(frame.steps) + 1, timing.fetch_ahead)
    fetched = [frame.data.serve(beats, delay) for _ in range(early)]
    times: list[float] = []
    number = dict.fromkeys(Unit, 0)
    for position, step in enumerate(frame.steps):
        if position < early:
            there = fetched[position]
        else:
            if position % timing.fetch_block == 0:
                # A block is requested when the buffer has room for it.
                request = times[position + timing.fetch_block - timing.fetch_ahead - 1]
                there = max(there, request + delay + frame.data.wait(request))
            there += beats / frame.data_share
        at = max(there, times[-1] + 2 if times else 0.0)
        unit = step.unit
        slot = number[unit] - arch.queue_depth
        if slot >= 0:
            at = max(at, (yield from frame.taken[unit].at(slot)) + 1)
        number[unit] += 1
        times.append(at)
        frame.dispatched[unit].append(at + timing.queue)


def router(frame: Frame) -> Process:
    """Each ROUTE collects the logits of its rows."""
    free, rows = 0.0, 0
    for number, position in enumerate(frame.of_unit[Unit.ROUTER]):
        step = frame.steps[position]
        seen = yield from frame.dispatched[Unit.ROUTER].at(number)
        held = max(seen, free)
        frame.taken[Unit.ROUTER].append(held)
        begin = max(held + 1 + frame.timing.grant, (yield from frame.tokens(position)))
        frame.collecting.append(begin + 1)
        corrected = field(step, "corrected")
        rows += frame.rows[position] + corrected
        last = yield from frame.logits.reached(rows)
        free = last + frame.timing.route + 2 * field(step, "top_k") + frame.arch.rank_cycles
        free += corrected * frame.timing.scores
        frame.work[position] = frame.rows[position]
        frame.finished[Unit.ROUTER].append(free)


def load(frame: Frame) -> Process:
    """Loads one after the other; the requests of one overtake the data of the last one."""
    arch, timing = frame.arch, frame.timing
    requested, window, done = 0.0, -1, 0.0
    for number, position in enumerate(frame.of_unit[Unit.LOAD]):
        step = frame.steps[position]
        seen = yield from frame.dispatched[Unit.LOAD].at(number)
        frame.taken[Unit.LOAD].append(max(seen, requested))
        held = max(seen, requested) + 1
        requested = max(held + timing.grant, (yield from frame.tokens(position)))
        if field(step, "window") != window:
            requested = max(requested, done)
            window = field(step, "window")
        size = layout.load_bytes(arch, Space(field(step, "space")))
        beats = field(step, "words") * size // arch.data_port_bytes
        frame.began[position] = max(done, requested + timing.load_request + frame.memory.latency)
        done = frame.data.serve(beats, requested + timing.load_request + frame.memory.latency)
        frame.work[position] = beats
        frame.finished[Unit.LOAD].append(done + timing.load_token)


def store(frame: Frame) -> Process:
    """Each STORE takes the next chunks of output, and waits for the memory's response."""
    timing, free, chunks = frame.timing, 0.0, 0
    for number, position in enumerate(frame.of_unit[Unit.STORE]):
        step = frame.steps[position]
        seen = yield from frame.dispatched[Unit.STORE].at(number)
        frame.taken[Unit.STORE].append(max(seen, free))
        held = max(seen + 1, free)
        begin = max(held + timing.grant, (yield from frame.tokens(position)))
        free = begin + 1
        frame.storing.append(begin)
        chunks += field(step, "words")
        last = yield from frame.stored.reached(chunks)
        beats = frame.work[position] = field(step, "words") * store_beats(step, frame.arch)
        # The last burst begins when its last beat is in the buffer.
        burst = (beats - 1) % timing.burst_beats + 1
        sent = last + timing.store_token + burst / frame.data_share
        frame.finished[Unit.STORE].append(sent + frame.memory.latency)
