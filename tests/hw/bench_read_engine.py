"""cocotb bench of ReadEngine: random commands, full rate, faults, abort."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge

from tests.hw.axi_memory import AxiReadMemory, Timing

BYTES = int(os.environ["DATA_BYTES"])
MAX_BURST = int(os.environ["MAX_BURST"])
BASE = 0x12_3456_7000
ROUGH = Timing(latency=(1, 40), address=0.5, beat=0.7)


class Bench:
    """One engine with its memory; ``beats`` collects (data, last) as they are taken."""

    def __init__(self, dut: Any, size: int, timing: Timing, ready: float = 1.0) -> None:
        self.dut, self.ready, self.size = dut, ready, size
        contents = random.randbytes(size)
        self.memory = AxiReadMemory(dut, "axi", BYTES, BASE, contents, timing)
        self.commands: list[tuple[int, int]] = []
        self.beats: list[tuple[int, int]] = []
        self.gap = 0.0
        self.crossed = self.cycles = 0
        self._held: tuple[int, int] | None = None

    async def start(self) -> None:
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, 2, "step").start())
        self.abort = 0
        dut.window__base.value = BASE
        dut.window__size.value = self.size
        for signal in (dut.command__valid, dut.data__ready, dut.axi__arready, dut.axi__rvalid):
            signal.value = 0
        dut.rst.value = 1
        for _ in range(3):
            await RisingEdge(dut.clk)
        dut.rst.value = 0

    async def cycle(self, commands: bool = True) -> None:
        dut = self.dut
        await RisingEdge(dut.clk)
        self.cycles += 1
        self.memory.drive()
        dut.abort.value = self.abort
        offering = bool(commands and self.commands and random.random() >= self.gap)
        if offering:
            dut.command__payload.value = self.commands[0][0] | self.commands[0][1] << 32
        dut.command__valid.value = int(offering)
        dut.data__ready.value = int(random.random() < self.ready)
        await FallingEdge(dut.clk)
        self.memory.sample()
        self.crossed += int(dut.beat.value)
        if offering and int(dut.command__ready.value):
            self.commands.pop(0)
        if int(dut.data__valid.value):
            payload = int(dut.data__payload.value)
            beat = (payload & (1 << 8 * BYTES) - 1, payload >> 8 * BYTES)
            assert self._held in (None, beat), "beat changed before ready"
            self._held = None if int(dut.data__ready.value) else beat
            if int(dut.data__ready.value):
                self.beats.append(beat)
        else:
            assert self._held is None or self.abort, "valid fell before ready"
            self._held = None

    async def until_idle(self, limit: int = 20_000) -> None:
        for _ in range(limit):
            await self.cycle()
            if int(self.dut.idle.value) and not self.commands:
                return
        raise AssertionError("engine never became idle")

    def expected(self, commands: list[tuple[int, int]]) -> list[tuple[int, int]]:
        result = []
        for offset, beats in commands:
            for i in range(beats):
                at = offset + i * BYTES
                word = int.from_bytes(self.memory.contents[at : at + BYTES], "little")
                result.append((word, int(i == beats - 1)))
        return result

    def random_commands(self, count: int, longest: int) -> list[tuple[int, int]]:
        total = self.size // BYTES
        commands = []
        for _ in range(count):
            beats = min(total, random.choice([1, 2, random.randint(1, longest)]))
            start = random.choice([random.randint(0, total - beats), total - beats, 0])
            commands.append((start * BYTES, beats))
        return commands


def check(got: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    assert len(got) == len(expected), f"{len(got)} beats, not {len(expected)}"
    for index, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a == b, f"beat {index}: {a}, not {b}"


@cocotb.test()
async def random_traffic(dut: Any) -> None:
    """Any commands under any pauses; a corrupted expectation is noticed."""
    for timing, ready in ((Timing(), 1.0), (ROUGH, 1.0), (ROUGH, 0.5), (Timing(beat=0.3), 0.9)):
        # An odd size: the last, incomplete beat must never be read.
        bench = Bench(dut, 16384, timing, ready)
        await bench.start()
        bench.gap = random.choice([0.0, 0.8])
        commands = bench.random_commands(30, 400)
        bench.commands = list(commands)
        await bench.until_idle()
        expected = bench.expected(commands)
        check(bench.beats, expected)
        assert bench.crossed == bench.memory.beats == len(expected)
        assert not int(dut.fault__window.value) and not int(dut.fault__bus.value)
        expected[len(expected) // 2] = (expected[len(expected) // 2][0] ^ 1, 0)
        try:
            check(bench.beats, expected)
        except AssertionError:
            continue
        raise RuntimeError("the checker let a flipped bit pass")


@cocotb.test()
async def full_rate(dut: Any) -> None:
    """One beat per cycle across commands, behind what latency eight bursts hide."""
    total, latency = 2048, min(120, 6 * MAX_BURST)
    bench = Bench(dut, total * BYTES, Timing(latency=(latency, latency)))
    await bench.start()
    commands = [(i * (total // 8) * BYTES, total // 8) for i in range(8)]
    bench.commands = list(commands)
    before = bench.cycles
    await bench.until_idle()
    check(bench.beats, bench.expected(commands))
    cycles = bench.cycles - before
    assert cycles <= total + latency + 12, f"{cycles} cycles for {total} beats"
    assert bench.memory.most_outstanding <= 8
    assert max(bench.memory.lengths) == min(MAX_BURST, 4096 // BYTES)


@cocotb.test()
async def short_commands(dut: Any) -> None:
    """Commands of one beat: a burst every other cycle while latency is short."""
    bench = Bench(dut, 8192, Timing(latency=(1, 1)))
    await bench.start()
    commands = [(random.randrange(8192 // BYTES) * BYTES, 1) for _ in range(200)]
    bench.commands = list(commands)
    before = bench.cycles
    await bench.until_idle()
    check(bench.beats, bench.expected(commands))
    assert bench.cycles - before <= 2 * 200 + 12, bench.cycles - before


@cocotb.test()
async def refused_commands(dut: Any) -> None:
    """What is not wholly inside the window is refused as a whole and issues nothing."""
    size = 8192 + BYTES // 2  # the last, incomplete beat is outside
    for offset, beats in (
        (8192, 1),
        (8192 - BYTES, 2),
        (0, 8192 // BYTES + 1),
        (1 << 31, 1),
        (0, (1 << 32) - 1),
        (0xFFFF_FFFF // BYTES * BYTES, 0xFFFF_FFFF),
        (BYTES // 2, 1),
    ):
        bench = Bench(dut, size, ROUGH)
        await bench.start()
        bench.commands = [(0, 5), (offset, beats), (0, 3)]
        for _ in range(300):
            await bench.cycle()
        assert int(dut.fault__window.value) and not int(dut.fault__bus.value)
        assert int(dut.idle.value)
        assert sum(bench.memory.lengths) == 5, "the refused command reached the bus"
        assert bench.beats == bench.expected([(0, 5)])[: len(bench.beats)]
        bench.abort = 1
        await bench.cycle(commands=False)
        bench.abort = 0
        await bench.cycle(commands=False)
        assert not int(dut.fault__window.value)
        bench.beats.clear()
        bench.commands = [(8192 - BYTES, 1), (0, 0), (0, 2)]
        await bench.until_idle()
        check(bench.beats, bench.expected([(8192 - BYTES, 1), (0, 2)]))


@cocotb.test()
async def bus_error(dut: Any) -> None:
    """An error response stops the engine; nothing from the bad beat on comes out."""
    for bad in (0, 1, 37, 200):
        bench = Bench(dut, 16384, ROUGH, 0.8)
        await bench.start()
        bench.memory.bad = {BASE + bad * BYTES}
        bench.commands = [(0, 250), (0, 250)]
        for _ in range(2500):
            await bench.cycle()
        assert int(dut.fault__bus.value) and not int(dut.fault__window.value)
        assert int(dut.idle.value) and not bench.memory.bursts
        assert len(bench.beats) <= bad
        check(bench.beats, bench.expected([(0, 250)])[: len(bench.beats)])
        bench.abort = 1
        await bench.cycle(commands=False)
        bench.abort = 0
        await bench.cycle(commands=False)
        assert not int(dut.fault__bus.value)


@cocotb.test()
async def abort_anywhere(dut: Any) -> None:
    """Abort at any moment: no protocol breach, idle only when drained, no stale beat after."""
    bench = Bench(dut, 16384, ROUGH, 0.6)
    await bench.start()
    for trial in range(40):
        commands = bench.random_commands(6, 1000)
        bench.commands = list(commands)
        bench.beats.clear()
        for _ in range(random.randint(1, 150)):
            await bench.cycle()
        check(bench.beats, bench.expected(commands)[: len(bench.beats)])
        bench.memory.hold_addresses = trial % 2 == 0
        bench.commands.clear()
        bench.abort = 1
        for _ in range(30):
            await bench.cycle(commands=False)
        if bench.memory.bursts or bench.memory._request:
            assert not int(dut.idle.value), "idle with bursts outstanding"
        bench.memory.hold_addresses = False
        bench.ready = 0.0  # draining must not depend on the consumer
        await bench.until_idle()
        assert not bench.memory.bursts and bench.memory._request is None
        bench.abort = 0
        await bench.cycle(commands=False)
        bench.beats.clear()
        bench.ready = 0.6
        commands = bench.random_commands(2, 100)
        bench.commands = list(commands)
        await bench.until_idle()
        check(bench.beats, bench.expected(commands))
