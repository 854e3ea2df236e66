"""Everything around a StreamUnit in a bench: memories, tokens, router, ring consumer, and the law.

One ``cycle`` drives all inputs at the falling edge, samples all outputs when they have settled,
and lets the next rising edge happen.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from tests.hw.axi_memory import AxiReadMemory, Timing
from tests.hw.grants import Grants


@dataclass(kw_only=True)
class Segment:
    """One STREAM instruction."""

    offset: int
    words: int
    wait: int = 0
    signal: int = 0
    sequence: int = 0
    expert: int = 0
    speculate: int = 0

    def encode(self) -> int:
        raw = isa.encode(
            isa.Opcode.STREAM,
            wait=self.wait,
            signal=self.signal,
            predicated=int(self.sequence != 0),
            expert=self.expert,
            sequence=self.sequence,
            speculate=self.speculate,
            offset=self.offset,
            words=self.words,
        )
        return int.from_bytes(raw, "little")


class StreamBench:
    """Drives a program of segments and records ring words, outcomes, tokens and counters."""

    def __init__(self, dut: Any, arch: ArchConfig, image_words: int, timing: Timing) -> None:
        self.dut, self.arch = dut, arch
        width = arch.ring_read_bytes
        self.image = [random.randbytes(width) for _ in range(image_words)]
        step = arch.weight_port_bytes
        self.memories = []
        for port in range(arch.weight_ports):
            starts = range(port * step, width, arch.line_bytes)
            contents = b"".join(word[s : s + step] for word in self.image for s in starts)
            base = (0x10_0000 + random.getrandbits(16)) << 12
            self.memories.append(AxiReadMemory(dut, f"axi{port}", step, base, contents, timing))
        self.ready = self.fetched_ready = self.offer = self.token = self.route = 1.0
        self.discard = 0.0
        self.routings: dict[int, int] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the program and all records."""
        self.program: list[Segment] = []
        self._queue: deque[Segment] = deque()
        self._predicated: list[Segment] = []
        self.ring: list[int] = []
        self.outcomes: list[int] = []
        self.given: list[int] = []
        self.taken: Counter[int] = Counter()
        self.tokens: Counter[int] = Counter()
        self._grants = Grants()
        self.totals: Counter[str] = Counter()
        self.cycles = self.sequence = self.discarded = 0
        self._beats_before = [memory.beats for memory in self.memories]

    def load(self, program: list[Segment]) -> None:
        self.program = program
        self._queue = deque(program)
        self._predicated = [segment for segment in program if segment.sequence]

    async def start(self) -> None:
        cocotb.start_soon(Clock(self.dut.clk, 2, "step").start())
        self.dut.abort.value = 0
        for port, memory in enumerate(self.memories):
            getattr(self.dut, f"window{port}__base").value = memory.base
            getattr(self.dut, f"window{port}__size").value = len(memory.contents)
        await self.pulse_reset()

    async def pulse_reset(self) -> None:
        self.dut.rst.value = 1
        self.dut.control__queue__valid.value = 0
        self.dut.router__sequence.value = 0
        self.dut.discard.value = 0
        for memory in self.memories:
            memory.s["rvalid"].value = 0
        for _ in range(2):
            await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0
        self.dut.abort.value = 0

    def _drive(self) -> None:
        dut = self.dut
        for memory in self.memories:
            memory.drive()
        self._offering = bool(self._queue) and random.random() < self.offer
        dut.control__queue__valid.value = int(self._offering)
        if self._offering:
            dut.control__queue__payload.value = self._queue[0].encode()
        dut.ring__ready.value = int(random.random() < self.ready)
        dut.fetched__ready.value = int(random.random() < self.fetched_ready)
        self._discarding = int(random.random() < self.discard)
        dut.discard.value = self._discarding
        # A routing ends only when every segment of the one before is decided.
        undecided = self._predicated[len(self.outcomes) :]
        following = undecided[0].sequence if undecided else self.sequence
        if following != self.sequence and random.random() < self.route:
            self.sequence = following
        dut.router__sequence.value = self.sequence
        dut.router__hit.value = self.routings.get(self.sequence, 0)
        for unit in range(isa.UNIT_COUNT):
            self.tokens[unit] += int(random.random() < self.token)
        dut.control__granted.value = int(self._grants.granted)

    def _sample(self) -> None:
        dut = self.dut
        for memory in self.memories:
            memory.sample()
        if self._offering and int(dut.control__queue__ready.value):
            self._queue.popleft()
        mask, take = int(dut.control__wait.value), bool(int(dut.control__take.value))
        needed = [unit for unit in range(isa.UNIT_COUNT) if mask >> unit & 1]
        there = all(self.tokens[unit] for unit in needed)
        self._grants.sample(bool(int(dut.control__want.value)), mask, take, there)
        if take:
            self.tokens.subtract(needed)
            self.taken.update(needed)
        if int(dut.control__give.value):
            self._retire(int(dut.control__signal.value))
        if int(dut.ring__valid.value) and int(dut.ring__ready.value):
            self.ring.append(int(dut.ring__payload.value))
        if int(dut.fetched__valid.value) and int(dut.fetched__ready.value):
            self.outcomes.append(int(dut.fetched__payload.value))
        self.discarded += self._discarding
        for name in (
            "weight_read_bytes",
            "weight_unused_bytes",
            "experts_fetched",
            "experts_skipped",
            "control__working",
            "control__wait_token",
            "control__stalled",
        ):
            self.totals[name] += int(getattr(dut, name).value)

    def _retire(self, signal: int) -> None:
        segment = self.program[len(self.given)]
        assert signal == segment.signal, f"token {len(self.given)}: {signal}, not {segment.signal}"
        self.given.append(signal)

    async def cycle(self) -> None:
        self.cycles += 1
        self._drive()
        await ReadOnly()
        self._sample()
        await FallingEdge(self.dut.clk)

    async def finish(self, limit: int = 20_000) -> None:
        """Run until the unit is idle and the ring is empty."""
        for _ in range(limit):
            await self.cycle()
            if len(self.given) == len(self.program) and not int(self.dut.ring__valid.value):
                break
        else:
            raise AssertionError(f"{len(self.given)} of {len(self.program)} segments done")
        self.ready = self.fetched_ready = 1.0
        for _ in range(12):
            await self.cycle()
        assert not int(self.dut.control__busy.value) and not int(self.dut.ring__valid.value)
        assert not self._queue

    def check(self) -> None:
        """Compare everything recorded since ``reset`` with what the program must do."""
        fetched = []
        outcomes = iter(self.outcomes)
        for segment in self.program:
            outcome = 1
            if segment.sequence:
                outcome = next(outcomes)
                hit = self.routings[segment.sequence] >> segment.expert & 1
                allowed = {hit, 1} if segment.speculate else {hit}
                assert outcome in allowed, f"{segment} fetched={outcome} with hit={hit}"
            if outcome:
                fetched += self.image[segment.offset : segment.offset + segment.words]
        assert next(outcomes, None) is None, "more outcomes than predicated segments"
        expected = [int.from_bytes(word, "little") for word in fetched]
        assert len(self.ring) == len(expected), f"{len(self.ring)} words, not {len(expected)}"
        for index, (got, word) in enumerate(zip(self.ring, expected, strict=True)):
            assert got == word, f"ring word {index}: {got:x}, not {word:x}"
        waits = Counter(
            unit for s in self.program for unit in range(isa.UNIT_COUNT) if s.wait >> unit & 1
        )
        assert self.taken == waits, f"tokens taken {self.taken}, not {waits}"
        width = self.arch.ring_read_bytes
        assert self.totals["weight_read_bytes"] == len(expected) * width
        assert self.totals["weight_unused_bytes"] == self.discarded * width
        assert self.totals["experts_fetched"] == sum(self.outcomes)
        assert self.totals["experts_skipped"] == len(self.outcomes) - sum(self.outcomes)
        for memory, before in zip(self.memories, self._beats_before, strict=True):
            assert (memory.beats - before) * self.arch.weight_port_bytes == (
                len(expected) * width // self.arch.weight_ports
            )
