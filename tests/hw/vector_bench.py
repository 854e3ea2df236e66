"""Drives the vector unit through a program, plays all its neighbours, checks what comes out."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge
from torch import Tensor

from moesaic.spec.arch import ArchConfig
from tests.hw.grants import Grants
from tests.hw.vector_program import Program


def pack(values: list[int], bits: int) -> int:
    """Lane 0 in the lowest bits."""
    mask = (1 << bits) - 1
    return sum((value & mask) << bits * i for i, value in enumerate(values))


def unpack(word: int, bits: int, count: int) -> list[int]:
    return [word >> bits * i & (1 << bits) - 1 for i in range(count)]


def table_words(tables: Tensor) -> list[int]:
    """Entries [tables, entries] as LOAD writes them: 18 bits, and 12 of the difference."""
    words = []
    for table in tables.tolist():
        following = [*table[1:], table[-1]]
        for value, after in zip(table, following, strict=True):
            words.append(pack([value], 18) | pack([after - value], 12) << 18)
    return words


def never() -> bool:
    return False


def sometimes(probability: float) -> Callable[[], bool]:
    return lambda: random.random() < probability


class VectorBench:
    """One program at a time; ``idle`` delays inputs, ``pause`` holds outputs back."""

    def __init__(self, dut: object, arch: ArchConfig) -> None:
        self.dut, self.arch = dut, arch
        self.cycles = self.last_give = 0
        self.first_take: int | None = None
        self.counted: dict[str, int] = {}
        self.working = 0

    async def reset(self) -> None:
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, 2, unit="step").start())
        for handle in dut:  # every input starts at 0
            if handle._name.endswith(("valid", "ready", "full", "granted")):
                handle.value = 0
        dut.rst.value = 1
        for _ in range(3):
            await RisingEdge(dut.clk)
        dut.rst.value = 0

    async def load_residual(self, residual: Tensor, pause: Callable[[], bool] = never) -> None:
        """Fill the residual memory through the load unit's port."""
        for address, values in enumerate(residual.tolist()):
            while pause():
                self.dut.residual_write__valid.value = 0
                await RisingEdge(self.dut.clk)
            self.dut.residual_write__valid.value = 1
            self.dut.residual_write__address.value = address
            self.dut.residual_write__data.value = pack(values, 16)
            await FallingEdge(self.dut.clk)
            assert self.dut.residual_write__ready.value == 1
            await RisingEdge(self.dut.clk)
        self.dut.residual_write__valid.value = 0

    async def load_tables(self, tables: Tensor) -> None:
        """Fill the tables of activations; what lies above an entry is noise."""
        for address, word in enumerate(table_words(tables)):
            self.dut.table_write__valid.value = 1
            self.dut.table_write__address.value = address
            self.dut.table_write__data.value = word | random.getrandbits(2) << 30
            await RisingEdge(self.dut.clk)
        self.dut.table_write__valid.value = 0

    def stored_residual(self) -> list[list[int]]:
        memory = self.dut.residual_memory.ram.memory
        words = [int(memory[i].value) for i in range(self.arch.residual_words)]
        return [unpack(word, 16, self.arch.lanes) for word in words]

    def ring_words(self, program: Program) -> deque[int]:
        """Parameter blocks as the ring holds them; padding and reserved bytes are noise."""
        size = 8 * self.arch.ring_read_bytes
        words: deque[int] = deque()
        for block in program.blocks:
            bits = 0
            for column, (bias, multiplier, shift) in enumerate(block.tolist()):
                entry = (bias & 0xFFFFFFFF) | multiplier << 32 | shift << 48
                bits |= (entry | random.getrandbits(8) << 56) << 64 * column
            length = -(-64 * self.arch.width // size) * size
            padding = length - 64 * self.arch.width
            if padding:
                bits |= random.getrandbits(padding) << 64 * self.arch.width
            words += [bits >> at & (1 << size) - 1 for at in range(0, length, size)]
        return words

    async def run(
        self,
        program: Program,
        *,
        idle: Callable[[], bool] = never,
        pause: Callable[[], bool] = never,
        loads: Sequence[tuple[int, Tensor]] = (),
        stop_after: int | None = None,
        limit: int = 200_000,
    ) -> None:
        """Run to the last token; every mismatch is an AssertionError.

        ``loads`` are residual words that the load unit writes meanwhile. ``stop_after`` leaves
        the program unfinished after so many cycles.
        """
        dut, arch = self.dut, self.arch
        queue, waits = deque(program.instructions), deque[int]()
        grants = Grants()
        ring = self.ring_words(program)
        banks = [
            ([pack(row, 32) for row in g.accumulators.tolist()], g.maximum) for g in program.groups
        ]
        bank, bank_ready = 0, False
        writes, logits, outputs = (
            deque(program.writes), deque(program.logits), deque(program.outputs),
        )  # fmt: skip
        given = 0
        load = deque((address, pack(values.tolist(), 16)) for address, values in loads)
        reads: deque[tuple[int, int]] = deque([(0, 0)] * 2, maxlen=2)
        expert = index = 0
        counters = [(name, getattr(dut, f"events__{name}")) for name in program.events]
        self.counted = dict.fromkeys(program.events, 0)
        self.cycles, self.first_take, self.working = 0, None, 0

        while given < len(program.done) or load or logits or outputs:
            await RisingEdge(dut.clk)
            self.cycles += 1
            if self.cycles == stop_after:
                return
            assert self.cycles < limit, f"no end: {given} of {len(program.done)} instructions done"
            # Inputs of this cycle.
            offer = bool(queue) and not idle()
            dut.control__queue__valid.value = offer
            dut.control__granted.value = grants.granted
            if offer:
                dut.control__queue__payload.value = int.from_bytes(queue[0][0], "little")
            bank_ready = bank < len(banks) and (bank_ready or not idle())
            dut.accumulators__full.value = bank_ready
            data, maximum = reads[0]
            dut.accumulators__data.value = data
            dut.accumulators__maximum.value = maximum & 0xFFFFFFFF
            parameter = bool(ring) and not idle()
            dut.parameters__valid.value = parameter
            if parameter:
                dut.parameters__payload.value = ring[0]
            dut.residual_write__valid.value = bool(load)
            if load:
                dut.residual_write__address.value, dut.residual_write__data.value = load[0]
            entries = program.queues[expert] if expert < len(program.queues) else []
            dut.queue__count.value = len(entries)
            token, weight = entries[index] if index < len(entries) else (0, 0)
            dut.queue__token.value = token
            dut.queue__weight.value = weight
            write_ready, logits_ready, output_ready = not pause(), not pause(), not pause()
            dut.activation_write__ready.value = write_ready
            dut.logits__ready.value = logits_ready
            dut.output__ready.value = output_ready

            # Outputs of this cycle.
            await FallingEdge(dut.clk)
            wait, take = int(dut.control__wait.value), dut.control__take.value == 1
            want = dut.control__want.value == 1
            if want:
                assert wait == waits[0]
            grants.sample(want, wait, take, not idle())
            if take:
                waits.popleft()
            if offer and dut.control__queue__ready.value == 1:
                waits.append(queue.popleft()[1])
            if take:
                if self.first_take is None:
                    self.first_take = self.cycles
            self.working += int(dut.control__working.value)
            expert, index = int(dut.queue__expert.value), int(dut.queue__index.value)
            row = int(dut.accumulators__address.value)
            maximum_row = int(dut.accumulators__maximum_address.value)
            reads.append(self._read_bank(banks, bank, bank_ready, row, maximum_row))
            if dut.accumulators__release.value == 1:
                assert bank_ready, "released a bank that was not full"
                bank, bank_ready = bank + 1, False
            if parameter and dut.parameters__ready.value == 1:
                ring.popleft()
            if load and dut.residual_write__ready.value == 1:
                load.popleft()
            if write_ready and dut.activation_write__valid.value == 1:
                word, byte, values = writes.popleft()
                where = f"word {word}, byte {byte}, {program.describe(len(writes))}"
                assert int(dut.activation_write__address.value) == word, where
                byte_mask = (1 << len(values)) - 1
                assert int(dut.activation_write__mask.value) == byte_mask << byte, where
                found = int(dut.activation_write__data.value) >> 8 * byte
                assert unpack(found, 8, len(values)) == values, (
                    f"{unpack(found, 8, len(values))} is not {values}: {where}"
                )
            if logits_ready and dut.logits__valid.value == 1:
                expected, last = logits.popleft()
                found = int(dut.logits__payload.value)
                assert unpack(found, 24, arch.lanes) == expected
                assert found >> 24 * arch.lanes == last
            if output_ready and dut.output__valid.value == 1:
                assert unpack(int(dut.output__payload.value), 16, arch.lanes) == outputs.popleft()
            if dut.control__give.value == 1:
                done = program.done[given]
                assert int(dut.control__signal.value) == done.signal, f"tokens of {given}"
                assert len(program.writes) - len(writes) >= done.writes, f"{given} gave early"
                # The last ones may wait in a skid buffer, which needs no token to be found.
                for stream, rest, there in (
                    (program.logits, logits, done.logits),
                    (program.outputs, outputs, done.outputs),
                ):
                    assert len(stream) - len(rest) + 2 >= there, f"{given} gave early"
                assert dut.control__busy.value == 1
                given += 1
                self.last_give = self.cycles
            for name, handle in counters:
                self.counted[name] += int(handle.value)

        assert not writes and not logits and not outputs
        assert not ring and not load and bank == len(banks)
        await RisingEdge(dut.clk)
        await FallingEdge(dut.clk)
        assert dut.control__busy.value == 0
        expected_words = [pack(row, 16) for row in program.residual.tolist()]
        stored = [pack(row, 16) for row in self.stored_residual()]
        wrong = [i for i, (a, b) in enumerate(zip(stored, expected_words, strict=True)) if a != b]
        assert not wrong, f"residual words {wrong[:8]} differ"
        assert self.counted == program.events

    @staticmethod
    def _read_bank(
        banks: list[tuple[list[int], list[int]]],
        bank: int,
        ready: bool,
        row: int,
        maximum_row: int,
    ) -> tuple[int, int]:
        """What the addressed row holds; noise where there is none."""
        if not ready:
            return random.getrandbits(32), random.getrandbits(32)
        rows, maxima = banks[bank]
        data = rows[row] if row < len(rows) else random.getrandbits(32)
        maximum = maxima[maximum_row] if maximum_row < len(maxima) else random.getrandbits(32)
        return data, maximum
