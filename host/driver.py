"""Drives one accelerator through a transport: registers, windows, frames, counters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesaic.host.transport import Transport
from moesaic.spec import layout, registers
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.registers import ErrorCode


class DeviceError(Exception):
    """The accelerator reported an error, or nothing in time."""


@dataclass(frozen=True)
class FrameResult:
    """Output codes of one frame and the performance counters it left."""

    codes: NDArray[np.int16]
    """[rows, outputs]"""
    counters: dict[str, int]


class Driver:
    """One bundle loaded into one accelerator.

    Parameters
    ----------
    transport
        The accelerator. Its memory is laid out by this driver, from its base upwards.
    bundle
        What to run; its architecture must be the accelerator's.
    watchdog_cycles
        A frame that takes longer ends in an error.

    Raises
    ------
    DeviceError
        There is no accelerator behind the transport.
    UserError
        The bundle is for another architecture, or its data exceed the memory.
    """

    def __init__(
        self, transport: Transport, bundle: Bundle, watchdog_cycles: int = 100_000_000
    ) -> None:
        self.transport, self.bundle = transport, bundle
        self.watchdog_cycles = watchdog_cycles
        self._next = transport.memory_base
        self._probe()
        self._load()

    def _probe(self) -> None:
        found = self._read("ID")
        if found != registers.MAGIC:
            raise DeviceError(f"no accelerator answers: ID is 0x{found:08x}")
        version = self._read("VERSION")
        if version != registers.INTERFACE_VERSION:
            raise DeviceError(
                f"the accelerator's register map has version {version}, this driver knows"
                f" {registers.INTERFACE_VERSION}"
            )
        built = self._read("ARCH_HASH")
        if built != self.bundle.arch.hash:
            raise UserError(
                f"bundle {self.bundle.path} is for architecture 0x{self.bundle.arch.hash:08x}"
                f" ({self.bundle.arch.name}), the accelerator is 0x{built:08x}; compile for it"
            )

    def _load(self) -> None:
        """Place weights, programs, constants and the input and output areas of every task."""
        bundle, arch = self.bundle, self.bundle.arch
        self._weights = [self._place(part) for part in layout.split_ports(arch, bundle.weights)]
        self._programs = {name: self._place(raw) for name, raw in bundle.programs.items()}
        self._constants, self._inputs, self._outputs = {}, {}, {}
        for name, graph in bundle.graphs.items():
            self._constants[name] = self._place(bundle.constants[name])
            rows, inputs = graph.gather.shape
            self._inputs[name] = self._reserve(rows * layout.words(inputs, arch.depth) * arch.depth)
            chunks = layout.output_chunks(arch, graph.head.rows, graph.head.linear.outputs)
            part = chunks * arch.lanes * 2 // arch.output_ports
            self._outputs[name] = [self._reserve(part) for _ in range(arch.output_ports)]

    def _reserve(self, size: int) -> tuple[int, int]:
        """An aligned (address, size) that nothing else uses."""
        align = registers.WINDOW_ALIGNMENT
        address = -(-self._next // align) * align
        self._next = address + size
        if self._next > self.transport.memory_base + self.transport.memory_bytes:
            raise UserError(
                f"bundle {self.bundle.path} needs more than the device's"
                f" {self.transport.memory_bytes} bytes of memory"
            )
        return address, size

    def _place(self, data: bytes) -> tuple[int, int]:
        window = self._reserve(len(data))
        self.transport.write_memory(window[0], data)
        return window

    def _read(self, name: str) -> int:
        return self.transport.read_register(registers.offset(name))

    def _write(self, name: str, value: int) -> None:
        self.transport.write_register(registers.offset(name), value)

    def _window(self, name: str, window: tuple[int, int]) -> None:
        address, size = window
        self._write(f"{name}_BASE_LO", address & 0xFFFFFFFF)
        self._write(f"{name}_BASE_HI", address >> 32)
        self._write(f"{name}_SIZE", size)

    def run(self, task: str, patches: NDArray[np.int8]) -> FrameResult:
        """Run one frame: int8 codes [patches, inputs] to int16 codes.

        Raises
        ------
        DeviceError
            The frame ended in an error, or in no interrupt at all; the accelerator is reset.
        """
        graph, arch = self.bundle.graphs[task], self.bundle.arch
        self.transport.write_memory(self._inputs[task][0], layout.pack_input(arch, patches))
        for port, window in enumerate(self._weights):
            self._window(f"WEIGHT{port}", window)
        self._window("PROGRAM", self._programs[task])
        self._window("CONSTANT", self._constants[task])
        self._window("INPUT", self._inputs[task])
        for port, window in enumerate(self._outputs[task]):
            self._window(f"OUTPUT{port or ''}", window)
        self._write("WATCHDOG", self.watchdog_cycles)
        done, error = registers.bit("IRQ_STATUS", "DONE"), registers.bit("IRQ_STATUS", "ERROR")
        self._write("IRQ_STATUS", done | error)
        self._write("IRQ_ENABLE", done | error)
        self._write("CONTROL", registers.bit("CONTROL", "START"))
        answered = self.transport.run(self.watchdog_cycles + 100_000)
        status = self._read("IRQ_STATUS")
        self._write("IRQ_STATUS", done | error)
        if not answered or not status & done:
            self._fail(task, answered)
        parts = [self.transport.read_memory(*window) for window in self._outputs[task]]
        raw = layout.join_outputs(arch, parts)
        codes = layout.unpack_output(arch, raw, graph.head.rows, graph.head.linear.outputs)
        return FrameResult(codes, self.counters())

    def _fail(self, task: str, answered: bool) -> None:
        code, info = self._read("ERROR"), self._read("ERROR_INFO")
        self.reset()
        if not answered:
            raise DeviceError(f"task {task}: no interrupt within {self.watchdog_cycles} cycles")
        raise DeviceError(f"task {task}: {ErrorCode(code).name} (info 0x{info:x})")

    def reset(self) -> None:
        """Abandon whatever runs and wait until the accelerator is idle."""
        self._write("CONTROL", registers.bit("CONTROL", "RESET"))
        for _ in range(10_000):
            if not self._read("STATUS") & registers.bit("STATUS", "BUSY"):
                return
        raise DeviceError("the accelerator stays busy after a reset: its bus does not answer")

    def counters(self) -> dict[str, int]:
        """Performance counters of the last frame by name."""
        return {
            name: self._read(f"{name}_LO") | self._read(f"{name}_HI") << 32
            for name, _ in registers.COUNTERS
        }
