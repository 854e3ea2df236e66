"""Bench of the control block: memory, register access and played units."""

from __future__ import annotations

import os
import random
from collections import deque
from dataclasses import dataclass, field

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, ReadOnly
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from moesaic.spec import isa, registers
from moesaic.spec.isa import Opcode, Unit
from tests.hw.grants import Grants

DEPTH = int(os.environ["DEPTH"])
LANES = int(os.environ["LANES"])
BEAT = int(os.environ["BEAT"])
MEMORY_BYTES = 1 << 20
WINDOWS = {
    "PROGRAM": (0x10000, 0x8000),
    "CONSTANT": (0x20000, 0x4000),
    "INPUT": (0x30000, 0x8000),
    "OUTPUT": (0x40000, 0x8000),
}
PLAYED = (Unit.STREAM, Unit.MATRIX, Unit.VECTOR, Unit.ROUTER)
SMALLEST = {
    Unit.STREAM: (Opcode.STREAM, {"words": 1}),
    Unit.MATRIX: (Opcode.MATMUL, {"rows": 1, "k_tiles": 1, "n_tiles": 1, "groups": 1}),
    Unit.VECTOR: (Opcode.NORM, {"rows": 1, "words": 1, "channels": 1}),
    Unit.ROUTER: (Opcode.ROUTE, {"rows": 1, "experts": 2, "top_k": 1, "sequence": 1}),
    Unit.LOAD: (Opcode.LOAD, {"window": 2, "words": 1}),
    Unit.STORE: (Opcode.STORE, {"words": 1}),
}
END = isa.encode(Opcode.END)


def smallest(unit: Unit, **fields: int) -> bytes:
    opcode, values = SMALLEST[unit]
    return isa.encode(opcode, **{**values, **fields})


@dataclass
class Played:
    """A unit that takes instructions, waits for its tokens, works a while and gives tokens."""

    unit: Unit
    instruction: isa.Instruction | None = None
    granted: bool = False
    grants: Grants = field(default_factory=Grants)
    work_cycles: int = 0
    giving: bool = False


class Bench:
    """Everything around the control block. Works at falling edges, looks when all is settled."""

    def __init__(self, dut, pause: float = 0.0) -> None:
        self.dut = dut
        self.bus = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi_d"), dut.clk, dut.rst, size=MEMORY_BYTES)
        for channel in (
            *(self.ram.read_if.ar_channel, self.ram.read_if.r_channel),
            *(self.ram.write_if.aw_channel, self.ram.write_if.w_channel),
            self.ram.write_if.b_channel,
        ):
            channel.set_pause_generator(self._pauses(pause))
        for log in (self.bus.write_if.log, self.bus.read_if.log, self.ram.read_if.log):
            log.disabled = True
        self.ram.write_if.log.disabled = True
        self.played = {unit: Played(unit) for unit in PLAYED}
        self.work = lambda unit: random.choice([0, 0, 1, 5])
        self.frozen: set[Unit] = set()
        self.started: list[tuple[Unit, isa.Instruction, int]] = []
        self.tokens = {(giver, taker): 0 for giver in Unit for taker in Unit}
        self.activation: dict[int, int] = {}
        self.output: deque[int] = deque()
        self.cycle = 0

    @staticmethod
    def _pauses(probability: float):
        while True:
            yield random.random() < probability

    async def start(self) -> None:
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, 2, unit="ns").start())
        dut.rst.value = 1
        for unit in PLAYED:
            for name in ("queue__ready", "take", "give", "busy", "working", "wait_token"):
                self.port(unit, name).value = 0
            for name in ("stalled", "wait", "want", "signal"):
                self.port(unit, name).value = 0
        dut.activation__ready.value = dut.residual__ready.value = 1
        dut.output__valid.value = dut.activation_lookups.value = 0
        dut.fault_stream__window.value = dut.fault_stream__bus.value = 0
        dut.idle.value = 1
        await ClockCycles(dut.clk, 4)
        await FallingEdge(dut.clk)
        dut.rst.value = 0
        cocotb.start_soon(self._run())
        for name, (base, size) in WINDOWS.items():
            await self.write(f"{name}_BASE_LO", base)
            await self.write(f"{name}_SIZE", size)
        await self.write("IRQ_ENABLE", 3)

    def port(self, unit: Unit, name: str):
        return getattr(self.dut, f"{unit.name.lower()}__{name}")

    async def write(self, name: str, value: int) -> None:
        await self.bus.write_dword(registers.offset(name), value)

    async def read(self, name: str) -> int:
        return await self.bus.read_dword(registers.offset(name))

    async def counter(self, name: str) -> int:
        return await self.read(f"{name}_LO") | await self.read(f"{name}_HI") << 32

    async def _run(self) -> None:
        while True:
            await FallingEdge(self.dut.clk)
            self.cycle += 1
            for state in self.played.values():
                self._drive(state)
            self.dut.output__valid.value = bool(self.output)
            if self.output:
                self.dut.output__payload.value = self.output[0]
            await ReadOnly()
            if self.dut.core_reset.value:
                self.played = {unit: Played(unit) for unit in PLAYED}
                self.tokens = dict.fromkeys(self.tokens, 0)
                continue
            if self.output and self.dut.output__ready.value:
                self.output.popleft()
            gives = [(s.unit, s.instruction) for s in self.played.values() if s.giving]
            for state in self.played.values():
                self._observe(state)
            for giver, instruction in gives:  # count from the next cycle on
                for taker in Unit:
                    self.tokens[giver, taker] += instruction.values["signal"] >> taker & 1
            if self.dut.activation__valid.value:
                address = self.dut.activation__address.value.to_unsigned()
                self.activation[address] = self.dut.activation__data.value.to_unsigned()

    def _drive(self, state: Played) -> None:
        unit, instruction = state.unit, state.instruction
        waiting = instruction is not None and not state.granted
        self.port(unit, "queue__ready").value = instruction is None and unit not in self.frozen
        self.port(unit, "wait").value = instruction.values["wait"] if waiting else 0
        self.port(unit, "want").value = waiting
        granted = waiting and bool(self.port(unit, "granted").value)  # a register
        self.port(unit, "take").value = granted
        state.giving = bool(instruction) and state.granted and state.work_cycles == 0
        self.port(unit, "give").value = state.giving
        self.port(unit, "signal").value = instruction.values["signal"] if state.giving else 0
        self.port(unit, "busy").value = instruction is not None
        self.port(unit, "working").value = bool(instruction) and state.granted

    def _observe(self, state: Played) -> None:
        unit = state.unit
        if state.instruction is None:
            if unit not in self.frozen and self.port(unit, "queue__valid").value:
                raw = self.port(unit, "queue__payload").value.to_unsigned().to_bytes(32, "little")
                state.instruction, state.granted = isa.decode(raw), False
                state.grants = Grants()
        elif not state.granted:
            wait = state.instruction.values["wait"]
            givers = [giver for giver in Unit if wait >> giver & 1]
            # Tokens of the real units (load, store) are not modelled.
            there = all(self.tokens[g, unit] > 0 for g in givers if g in PLAYED)
            granted = bool(self.port(unit, "granted").value)
            real = any(giver not in PLAYED for giver in givers)
            if real:
                state.grants.granted &= granted
            assert granted == state.grants.granted, f"{unit.name} granted {granted}"
            state.grants.sample(True, wait, granted, there)
            if granted:
                for giver in givers:
                    self.tokens[giver, unit] -= giver in PLAYED
                state.granted, state.work_cycles = True, self.work(unit)
                self.started.append((unit, state.instruction, self.cycle))
        elif state.work_cycles:
            state.work_cycles -= 1
        else:
            state.instruction = None

    def load_program(self, *program: bytes) -> None:
        base, _ = WINDOWS["PROGRAM"]
        self.ram.write(base, b"".join(program))

    async def launch(self, *program: bytes) -> None:
        self.load_program(*program)
        await self.write("CONTROL", 1)

    async def interrupt(self, limit: int = 20_000) -> None:
        for _ in range(limit):
            if self.dut.irq.value:
                return
            await FallingEdge(self.dut.clk)
        raise AssertionError(f"no interrupt within {limit} cycles")

    async def expect_done(self, limit: int = 20_000) -> None:
        await self.interrupt(limit)
        assert await self.read("STATUS") == registers.bit("STATUS", "DONE")
        assert await self.read("ERROR") == 0 and await self.read("ERROR_INFO") == 0
        assert await self.read("IRQ_STATUS") == registers.bit("IRQ_STATUS", "DONE")
        await self.acknowledge()

    async def expect_error(
        self, code: registers.ErrorCode, info: int | None, limit: int = 20_000
    ) -> None:
        await self.interrupt(limit)
        assert await self.read("STATUS") == registers.bit("STATUS", "ERROR")
        assert registers.ErrorCode(await self.read("ERROR")) is code
        if info is not None:
            assert await self.read("ERROR_INFO") == info
        assert await self.read("IRQ_STATUS") == registers.bit("IRQ_STATUS", "ERROR")
        assert self.dut.core_reset.value
        await self.acknowledge()

    async def acknowledge(self) -> None:
        await self.write("IRQ_STATUS", 3)
        assert await self.read("IRQ_STATUS") == 0
        await FallingEdge(self.dut.clk)
        assert not self.dut.irq.value

    async def expect_works(self) -> None:
        """A plain frame through all six units, whatever happened before."""
        self.started.clear()
        self.activation.clear()
        self.frozen.clear()
        self.output.clear()
        data = random.randbytes(DEPTH)
        self.ram.write(WINDOWS["INPUT"][0], data)
        result = random.randbytes(2 * LANES)
        self.output.append(int.from_bytes(result, "little"))
        await self.launch(
            smallest(Unit.LOAD, signal=1 << Unit.MATRIX),
            smallest(Unit.MATRIX, wait=1 << Unit.LOAD, signal=1 << Unit.VECTOR),
            smallest(Unit.VECTOR, wait=1 << Unit.MATRIX, signal=1 << Unit.STORE),
            smallest(Unit.STORE, wait=1 << Unit.VECTOR),
            smallest(Unit.STREAM),
            smallest(Unit.ROUTER),
            END,
        )
        await self.expect_done()
        assert sorted(unit for unit, _, _ in self.started) == sorted(PLAYED)
        assert self.activation == {0: int.from_bytes(data, "little")}
        assert self.ram.read(WINDOWS["OUTPUT"][0], 2 * LANES) == result
        assert await self.counter("INSTRUCTIONS") == 7
