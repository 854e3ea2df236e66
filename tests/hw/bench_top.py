"""cocotb bench of the whole accelerator over AXI, against cocotbext-axi's memories."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam, AxiRamRead, AxiReadBus

from moesaic.spec import isa, registers
from moesaic.spec.arch import ArchConfig
from moesaic.spec.presets import load_arch
from tests.hw.top_program import PAGE, Frame, two_layers

MEMORY_BYTES = 1 << 20


def _pauses(probability: float) -> Iterator[bool]:
    while True:
        yield random.random() < probability


class TopBench:
    """A host on the AXI4-Lite port and a memory behind every master; all may pause."""

    def __init__(self, dut, arch: ArchConfig, pause: float) -> None:
        self.dut, self.arch = dut, arch
        self.bus = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        data = AxiBus.from_prefix(dut, "m_axi_d")
        self.memories = {"d": AxiRam(data, dut.clk, dut.rst, size=MEMORY_BYTES)}
        interfaces = [self.memories["d"].read_if, self.memories["d"].write_if]
        for port in range(arch.weight_ports):
            weights = AxiReadBus.from_prefix(dut, f"m_axi_w{port}")
            memory = AxiRamRead(weights, dut.clk, dut.rst, size=MEMORY_BYTES)
            self.memories[f"w{port}"] = memory
            interfaces.append(memory)
        for interface in interfaces:
            interface.log.disabled = True
            for channel in ("ar", "r", "aw", "w", "b"):
                stream = getattr(interface, f"{channel}_channel", None)
                if stream is not None:
                    stream.set_pause_generator(_pauses(pause))
        for interface in (self.bus.read_if, self.bus.write_if):
            interface.log.disabled = True

    async def start(self) -> None:
        cocotb.start_soon(Clock(self.dut.clk, 2, unit="ns").start())
        self.dut.rst.value = 1
        await ClockCycles(self.dut.clk, 8)
        self.dut.rst.value = 0
        assert await self.read("ARCH_HASH") == self.arch.hash

    async def write(self, name: str, value: int) -> None:
        await self.bus.write_dword(registers.offset(name), value)

    async def read(self, name: str) -> int:
        return await self.bus.read_dword(registers.offset(name))

    async def counter(self, name: str) -> int:
        return await self.read(f"{name}_LO") | await self.read(f"{name}_HI") << 32

    async def run(self, frame: Frame, limit: int = 100_000) -> None:
        """Set windows and memory, start, and wait for the interrupt."""
        for address, contents in frame.memory.items():
            for memory in self.memories.values():
                memory.write(address, contents)
        for name, (base, size) in frame.windows.items():
            await self.write(f"{name}_BASE_LO", base & 0xFFFFFFFF)
            await self.write(f"{name}_BASE_HI", base >> 32)
            await self.write(f"{name}_SIZE", size)
        await self.write("IRQ_ENABLE", 3)
        await self.write("CONTROL", registers.bit("CONTROL", "START"))
        if not self.dut.irq.value:
            await First(RisingEdge(self.dut.irq), ClockCycles(self.dut.clk, limit))
        assert self.dut.irq.value, f"no interrupt within {limit} cycles"

    async def acknowledge(self) -> None:
        await self.write("IRQ_STATUS", 3)
        await ClockCycles(self.dut.clk, 2)
        assert not self.dut.irq.value


def wrong_bytes(bench: TopBench, frame: Frame) -> int:
    """How many bytes of the data memory are not what the frame should leave there."""
    count = 0
    for address, contents in frame.expected.items():
        found = bench.memories["d"].read(address, len(contents))
        count += sum(a != b for a, b in zip(found, contents, strict=True))
    return count


@cocotb.test()
async def two_layers_are_exact(dut) -> None:
    """Several frames in a row; memory around the output must not change."""
    arch = load_arch(os.environ["TARGET"])
    bench = TopBench(dut, arch, float(os.environ["PAUSE"]))
    await bench.start()
    for seed, sizes in enumerate(((9, 40, 24, 21), (1, 16, 16, 16), (33, 70, 50, 40))):
        frame = two_layers(arch, sizes, seed)
        await bench.run(frame)
        assert await bench.read("STATUS") == registers.bit("STATUS", "DONE")
        assert wrong_bytes(bench, frame) == 0
        assert await bench.counter("INSTRUCTIONS") == frame.instructions
        weight_bytes = frame.ring_words * arch.ring_read_bytes
        assert await bench.counter("WEIGHT_READ_BYTES") == weight_bytes
        stored = await bench.counter("DATA_WRITE_BYTES")
        assert stored == frame.windows["OUTPUT"][1]
        await bench.acknowledge()
    # The comparison itself must be able to fail.
    address, contents = next(iter(frame.expected.items()))
    middle = len(contents) // 2
    flipped = contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :]
    frame.expected[address] = flipped
    assert wrong_bytes(bench, frame) == 1


@cocotb.test()
async def output_window_is_respected(dut) -> None:
    """One beat too little room for the result: an error, and not one byte beyond the window."""
    arch = load_arch(os.environ["TARGET"])
    bench = TopBench(dut, arch, float(os.environ["PAUSE"]))
    await bench.start()
    frame = two_layers(arch, (9, 40, 24, 21))
    base, size = frame.windows["OUTPUT"]
    frame.windows["OUTPUT"] = (base, size - arch.data_port_bytes)
    await bench.run(frame)
    assert await bench.read("STATUS") == registers.bit("STATUS", "ERROR")
    assert await bench.read("ERROR") == registers.ErrorCode.WINDOW
    assert await bench.read("ERROR_INFO") == isa.Unit.STORE
    guard = frame.memory[base - PAGE]
    end = PAGE + size - arch.data_port_bytes  # within the guarded range
    length = len(guard) - end
    assert bench.memories["d"].read(base - PAGE + end, length) == guard[end:]
    await bench.acknowledge()
    frame.windows["OUTPUT"] = (base, size)
    await bench.run(frame)
    assert await bench.read("STATUS") == registers.bit("STATUS", "DONE")
    assert wrong_bytes(bench, frame) == 0
