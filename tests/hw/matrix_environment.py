"""Everything around the matrix unit: memories, queues, tokens, ring, and the vector unit."""

from __future__ import annotations

import json
import os
import random
from collections import deque

import numpy as np
from cocotb.triggers import FallingEdge, ReadOnly

from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from tests.hw.grants import Grants
from tests.hw.matrix_model import Group, Matmul

ARCH = ArchConfig.from_dict(json.loads(os.environ["ARCH"]))
EVENTS = (
    "matrix_stream_words",
    "matrix_ring_tiles",
    "matrix_operand_loads",
    "attention_stream_words",
    "matrix_wait_tile",
    "matrix_wait_bank",
)


class Reader:
    """The scratchpad behind one read port: data after two cycles, garbage in all others."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench, self.name = bench, name
        self.pipe: deque[bytes | None] = deque([None, None])
        self.log: list[int] = []

    def drive(self) -> None:
        word = self.pipe.popleft()
        self.bench.put(f"{self.name}__data_valid", word is not None)
        data = os.urandom(ARCH.depth) if word is None else word
        self.bench.put(f"{self.name}__data", int.from_bytes(data, "little"))
        # The streamed operand's port comes first in the scratchpad, and relies on it.
        ready = self.name == "stream_read" or random.random() >= self.bench.idle
        self.bench.put(f"{self.name}__ready", ready)

    def sample(self) -> None:
        word = None
        if self.bench.get(f"{self.name}__valid") and self.bench.get(f"{self.name}__ready"):
            address = self.bench.get(f"{self.name}__address")
            self.log.append(address)
            word = self.bench.memory.get(address) or os.urandom(ARCH.depth)
        self.pipe.append(word)


class Drain:
    """The vector unit: reads finished banks, compares, and releases with the last read."""

    def __init__(self, bench: Bench, groups: list[Group]) -> None:
        self.bench = bench
        self.todo = deque(groups)
        self.total = len(groups)
        self.row: int | None = None
        self.pipe: deque = deque([None, None])
        self.released = 0
        self.wait = self.pause = 0
        self.releasing = False

    def drive(self) -> None:
        bench = self.bench
        due = self.pipe.popleft()
        if due is not None:
            self.check(*due)
        # ``full`` is a register, so it can be looked at before the cycle's inputs are driven.
        full = bench.get("accumulators__full")
        self.releasing = False
        issued = None
        if full and self.row is None:
            assert self.todo, "a bank too many was handed over"
            self.row = 0
            self.wait = random.randrange(40) if random.random() < bench.idle else self.pause
        if self.row is not None:
            assert full, "full fell before the release"
            if self.wait:
                self.wait -= 1
            elif random.random() >= bench.idle / 2:
                group = self.todo[0]
                rows = len(group.sums)
                tracked = 1 if group.maxima is None else len(group.maxima)
                bench.put("accumulators__address", self.row)
                bench.put("accumulators__maximum_address", self.row % tracked)
                issued = (group, self.row)
                self.row += 1
                if self.row == rows:
                    self.todo.popleft()
                    self.row, self.releasing = None, True
                    self.released += 1
        if issued is None:
            bench.put("accumulators__address", random.randrange(ARCH.accumulator_rows))
        self.pipe.append(issued)
        bench.put("accumulators__release", self.releasing)

    def check(self, group: Group, row: int) -> None:
        raw = self.bench.get("accumulators__data").to_bytes(4 * ARCH.width, "little")
        got = np.frombuffer(raw, dtype="<i4").astype(np.int64)
        want = group.sums[row] ^ self.bench.corrupt
        valid = group.valid[row]
        assert (got[valid] == want[valid]).all(), (
            f"row {row} of {group.shape}: {got - want}, {valid}"
        )
        self.bench.checked += int(valid.sum())
        if group.maxima is not None:
            best = int(group.maxima[row % len(group.maxima)])
            raw = self.bench.get("accumulators__maximum")
            assert raw == best & 0xFFFFFFFF, f"maximum of row {row}: {raw} instead of {best}"


class Bench:
    """Everything around the unit. ``idle``: probability of every kind of stall per cycle."""

    def __init__(self, dut, program: list[Matmul], idle: float, corrupt: int = 0) -> None:
        self.dut, self.program, self.idle, self.corrupt = dut, program, idle, corrupt
        self.handles: dict = {}
        self.memory: dict[int, bytes] = {}
        self.queues: dict[int, list[int]] = {}
        self.stream = Reader(self, "stream_read")
        self.operand = Reader(self, "stationary_read")
        self.drain = Drain(self, [g for op in program for g in op.groups])
        self.instructions = deque(program)
        self.ring = deque(word for op in program for word in op.ring)
        self.fetched = deque(op.fetched for op in program if op.fetched is not None)
        self.parameters = deque(w for op in program for kind, w in op.ring if kind == "parameter")
        self.tokens = [0] * isa.UNIT_COUNT
        self.to_grant = deque(program)
        self.to_take = deque(op for op in program if op.wait)  # without any, none need be taken
        self.to_give = deque(program)
        self.groups_due = 0
        self.answer = (0, 0)
        self.grants = Grants()
        self.valid = {"ring": False, "fetched": False, "control__queue": False}
        self.events = dict.fromkeys(EVENTS, 0)
        self.cycles = self.checked = self.working = 0
        self.busy = True
        self.first_word = self.last_word = 0

    def handle(self, name: str):
        if name not in self.handles:
            self.handles[name] = getattr(self.dut, name)
        return self.handles[name]

    def put(self, name: str, value: int) -> None:
        self.handle(name).value = int(value)

    def get(self, name: str) -> int:
        return int(self.handle(name).value)

    async def reset(self) -> None:
        self.dut.rst.value = 1
        for name in self.valid:
            self.put(f"{name}__valid", 0)
        for name in ("accumulators__release", "control__granted", "parameters__ready"):
            self.put(name, 0)
        for _ in range(3):
            await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0

    async def run(self, stop_after: int | None = None) -> None:
        """Run until the program is done and checked, or for ``stop_after`` cycles."""
        await self.reset()
        while self.busy or self.drain.released < self.drain.total or any(self.drain.pipe):
            await self.cycle()
            if self.cycles == stop_after:
                await FallingEdge(self.dut.clk)
                return
            assert self.cycles < 100_000, f"stuck with {len(self.to_give)} instructions to go"
        for _ in range(20):
            await self.cycle()
        self.finish()
        await FallingEdge(self.dut.clk)

    async def cycle(self) -> None:
        await FallingEdge(self.dut.clk)
        self.drive()
        await ReadOnly()
        self.sample()
        self.cycles += 1

    def drive(self) -> None:
        self.stream.drive()
        self.operand.drive()
        if self.groups_due > self.drain.released:
            assert self.get("accumulators__full"), "tokens were given before the rows were there"
        self.drain.drive()
        sources = {"ring": self.ring, "fetched": self.fetched, "control__queue": self.instructions}
        for name, source in sources.items():  # a valid, once high, stays
            if not self.valid[name]:
                self.valid[name] = bool(source) and random.random() >= self.idle
            self.put(f"{name}__valid", self.valid[name])
        if self.ring:
            self.put("ring__payload", int.from_bytes(self.ring[0][1], "little"))
        if self.fetched:
            self.put("fetched__payload", self.fetched[0])
        if self.instructions:
            self.put("control__queue__payload", self.instructions[0].raw)
        self.put("parameters__ready", random.random() >= self.idle)
        self.put("queue__count", self.answer[0])
        self.put("queue__token", self.answer[1])
        if self.to_grant and random.random() >= self.idle:
            mask = self.to_grant.popleft().wait
            self.tokens = [t + (mask >> u & 1) for u, t in enumerate(self.tokens)]
        self.put("control__granted", self.grants.granted)

    def sample(self) -> None:
        self.stream.sample()
        self.operand.sample()
        for name, source in (("ring", self.ring), ("fetched", self.fetched)):
            if self.valid[name] and self.get(f"{name}__ready"):
                source.popleft()
                self.valid[name] = False
        if self.valid["control__queue"] and self.get("control__queue__ready"):
            self.publish(self.instructions[0], 0)
            self.instructions.popleft()
            self.valid["control__queue"] = False
        if self.get("parameters__valid") and self.get("parameters__ready"):
            word = self.get("parameters__payload").to_bytes(ARCH.ring_read_bytes, "little")
            assert self.parameters, "a parameter word too many"
            assert word == self.parameters.popleft()
        wait, take = self.get("control__wait"), bool(self.get("control__take"))
        there = all(t or not wait >> u & 1 for u, t in enumerate(self.tokens))
        self.grants.sample(bool(self.get("control__want")), wait, take, there)
        if take:
            self.take()
        self.look_up()
        if self.get("control__give"):
            self.give()
        events = self.get("events")
        for i, name in enumerate(EVENTS):
            self.events[name] += events >> i & 1
        if events & 1:
            self.first_word = self.first_word or self.cycles
            self.last_word = self.cycles
        self.busy = bool(self.instructions or self.get("control__busy"))
        assert self.busy or not self.to_give, "not busy with work to do"
        states = ("working", "stalled", "wait_token")
        assert sum(self.get(f"control__{s}") for s in states) <= 1
        self.working += self.get("control__working")

    def publish(self, op: Matmul, mask: int) -> None:
        """What the tokens (``mask``) of ``op`` stand for becomes visible."""
        if op.wait == mask:
            self.memory.update(op.memory)
            if op.queue is not None:
                self.queues[op.queue[0]] = op.queue[1]

    def take(self) -> None:
        mask = self.get("control__wait")
        if not mask:
            return
        assert self.to_take, "tokens taken for no instruction"
        op = self.to_take.popleft()
        assert mask == op.wait, f"took {mask:06b} instead of {op.wait:06b}"
        self.tokens = [t - (mask >> u & 1) for u, t in enumerate(self.tokens)]
        assert min(self.tokens) >= 0
        self.publish(op, mask)

    def look_up(self) -> None:
        entries = self.queues.get(self.get("queue__expert"))
        index = self.get("queue__index")
        token = random.randrange(ARCH.max_tokens)
        count = random.randrange(ARCH.max_tokens + 1)
        if entries is not None:
            count = len(entries)
            token = entries[index] if index < len(entries) else token
        self.answer = (count, token)

    def give(self) -> None:
        assert self.to_give, "tokens given for no instruction"
        op = self.to_give.popleft()
        assert self.get("control__signal") == op.signal
        self.groups_due += len(op.groups)

    def finish(self) -> None:
        assert not self.get("control__busy")
        assert not (self.ring or self.fetched or self.parameters or self.to_take)
        assert self.stream.log == [a for op in self.program for a in op.stream_addresses]
        operands = [a for op in self.program for a in op.operand_addresses]
        assert len(self.operand.log) == len(operands)
        read = zip(self.operand.log, operands, strict=True)
        assert all(address == expected for address, expected in read if expected is not None)
        words = [len(op.stream_addresses) for op in self.program]
        attention = [len(op.stream_addresses) * op.attention for op in self.program]
        assert self.events["matrix_stream_words"] == self.working == sum(words)
        assert self.events["attention_stream_words"] == sum(attention)
        loads = sum(expected is not None for expected in operands)
        assert self.events["matrix_operand_loads"] == loads
        assert self.events["matrix_ring_tiles"] == sum(op.ring_tiles for op in self.program)
