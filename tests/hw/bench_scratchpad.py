"""cocotb bench of the activation scratchpad against a dictionary with one rule per cycle."""

from __future__ import annotations

import os
import random
from collections import deque

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

DEPTH = int(os.environ["DEPTH"])
WORDS = int(os.environ["WORDS"])
BANKS = int(os.environ["BANKS"])
PORTS = range(2)


class Bench:
    """Drives requests, mirrors every cycle in ``memory`` and checks each answer."""

    def __init__(self, dut) -> None:
        self.dut = dut
        self.memory: dict[int, list[int | None]] = {}
        self.expected = [deque() for _ in PORTS]
        self.reads: list[int | None] = [None, None]
        self.writes: list[tuple[int, int, int] | None] = [None, None]
        self.granted_reads = [0, 0]
        self.granted_writes = [0, 0]
        self.checked = 0
        self.corrupt = False

    async def start(self) -> None:
        cocotb.start_soon(Clock(self.dut.clk, 2, unit="ns").start())
        self.dut.rst.value = 1
        for i in PORTS:
            getattr(self.dut, f"read{i}__valid").value = 0
            getattr(self.dut, f"write{i}__valid").value = 0
        for _ in range(3):
            await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0

    def port(self, name: str):
        return getattr(self.dut, name)

    async def cycle(self) -> None:
        """Present the pending requests for one cycle; whatever is granted is no longer pending."""
        await FallingEdge(self.dut.clk)
        for i in PORTS:
            read, write = self.reads[i], self.writes[i]
            self.port(f"read{i}__valid").value = read is not None
            self.port(f"write{i}__valid").value = write is not None
            if read is not None:
                self.port(f"read{i}__address").value = read
            if write is not None:
                self.port(f"write{i}__address").value = write[0]
                self.port(f"write{i}__data").value = write[1]
                self.port(f"write{i}__mask").value = write[2]
        await ReadOnly()
        for i in PORTS:
            self.check_answer(i)
        bank = WORDS // BANKS
        for kind, pending in (("read", self.reads), ("write", self.writes)):
            addresses = [p if kind == "read" or p is None else p[0] for p in pending]
            clash = (
                addresses[0] is not None
                and addresses[1] is not None
                and addresses[0] // bank == addresses[1] // bank
            )
            for i in PORTS:
                ready = bool(self.port(f"{kind}{i}__ready").value)
                if pending[i] is not None:
                    assert ready == (i == 0 or not clash), f"{kind}{i} at {addresses}"
                    if ready and kind == "read":
                        self.grant_read(i)
        for i in PORTS:  # after the reads: they see the old word
            if self.writes[i] is not None and self.port(f"write{i}__ready").value:
                self.grant_write(i)

    def grant_read(self, i: int) -> None:
        word = self.memory.get(self.reads[i], [None] * DEPTH)
        self.expected[i].append((2, list(word)))
        self.reads[i] = None
        self.granted_reads[i] += 1

    def grant_write(self, i: int) -> None:
        address, data, mask = self.writes[i]
        word = self.memory.setdefault(address, [None] * DEPTH)
        for b in range(DEPTH):
            if mask >> b & 1:
                word[b] = data >> 8 * b & 255
        self.writes[i] = None
        self.granted_writes[i] += 1

    def check_answer(self, i: int) -> None:
        self.expected[i] = deque((age - 1, word) for age, word in self.expected[i])
        due = bool(self.expected[i]) and self.expected[i][0][0] == 0
        assert bool(self.port(f"read{i}__data_valid").value) == due
        if due:
            _, word = self.expected[i].popleft()
            data = self.port(f"read{i}__data").value
            if None in word:  # bytes never written may hold anything
                return
            value = int.from_bytes(bytes(word), "little") ^ (1 if self.corrupt else 0)
            assert data.to_unsigned() == value
            self.checked += 1


async def run_random(bench: Bench, cycles: int, idle: float, hot_words: int) -> None:
    """Random traffic on ``hot_words`` words spread over all banks, for many collisions."""
    hot = [random.randrange(WORDS) for _ in range(hot_words)]
    for address in hot:
        bench.writes[0] = (address, random.getrandbits(8 * DEPTH), (1 << DEPTH) - 1)
        await bench.cycle()
    for _ in range(cycles):
        for i in PORTS:
            if bench.reads[i] is None and random.random() >= idle:
                bench.reads[i] = random.choice(hot)
            if bench.writes[i] is None and random.random() >= idle:
                mask = random.choice([(1 << DEPTH) - 1, random.getrandbits(DEPTH), 0])
                bench.writes[i] = (random.choice(hot), random.getrandbits(8 * DEPTH), mask)
        await bench.cycle()


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.5, 0.9])
async def random_traffic(dut, idle) -> None:
    bench = Bench(dut)
    await bench.start()
    await run_random(bench, 3000, idle, 16)
    assert bench.checked > 200


@cocotb.test()
async def write_is_seen_by_next_read(dut) -> None:
    """Back to back: write k, read k, in consecutive cycles, and reads in the very same cycle."""
    bench = Bench(dut)
    await bench.start()
    full = (1 << DEPTH) - 1
    for step in range(200):
        bench.writes[1] = (step % 3, random.getrandbits(8 * DEPTH), full)
        bench.reads[0] = (step - 1) % 3
        bench.reads[1] = step % 3 if step % 2 else None
        await bench.cycle()
        bench.reads[1] = None
    assert bench.checked > 150


@cocotb.test()
async def full_rate_when_banks_differ(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    half = WORDS // BANKS
    for step in range(500):
        bench.reads = [step % half, half + step % half]
        bench.writes = [(half + step % half, step, 1), (step % half, step, 1)]
        await bench.cycle()
    assert bench.granted_reads == [500, 500] and bench.granted_writes == [500, 500]


@cocotb.test()
async def lower_port_wins_a_bank(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    for step in range(100):
        bench.reads = [step % 4, bench.reads[1] if bench.reads[1] is not None else 1]
        await bench.cycle()
    assert bench.granted_reads == [100, 0]


@cocotb.test()
async def checker_notices_a_wrong_bit(dut) -> None:
    bench = Bench(dut)
    await bench.start()
    bench.corrupt = True
    try:
        await run_random(bench, 200, 0.0, 4)
    except AssertionError:
        return
    raise AssertionError("a flipped bit went unnoticed")
