"""An accelerator at its registers: what a driver can see of one, with the integer graph behind it.

It knows the frame only from its windows, as hardware does: which program lies in the PROGRAM
window, which codes in the INPUT window. Faults are asked for one frame at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from moesaic.host.accelerator import Accelerator
from moesaic.host.driver import Driver
from moesaic.host.platform import TransportPlatform
from moesaic.spec import layout, registers
from moesaic.spec.bundle import Bundle
from moesaic.spec.registers import ErrorCode, bit, offset

DONE, ERROR = bit("IRQ_STATUS", "DONE"), bit("IRQ_STATUS", "ERROR")
FAULTS = (
    "bus error",
    "watchdog",
    "hang",
    "lost interrupt",
    "all ones",
    "vanished",
    "other bitstream",
)
"""What the next frame can meet. After the last three the device is gone for good."""


Answers = Mapping[str, Callable[[NDArray[np.int8]], NDArray[np.int16]]]
"""Task to what turns frames [frames, patches, inputs] into codes [frames, codes]."""


def in_integers(bundle: Bundle) -> Answers:
    """What every device must give."""
    from moesaic.spec.execute import Executor

    return {name: Executor(graph).run for name, graph in bundle.graphs.items()}


class RegisterMock:
    """Registers, memory and interrupt of one accelerator; a Transport."""

    memory_base = 1 << 32  # above 4 GiB, so that the upper half of addresses matters

    def __init__(
        self, bundle: Bundle, memory_bytes: int = 1 << 22, answers: Answers | None = None
    ) -> None:
        self.memory_bytes = memory_bytes
        self.fault: str | None = None
        """For the next frame."""
        self.frames = 0
        self.closed = False
        self._bundle = bundle
        self._answers = answers or in_integers(bundle)
        self._memory = bytearray(memory_bytes)
        self._registers = {register.offset: 0 for register in registers.REGISTERS}
        self._registers[offset("ID")] = registers.MAGIC
        self._registers[offset("VERSION")] = registers.INTERFACE_VERSION
        self._registers[offset("ARCH_HASH")] = bundle.arch.hash
        self._gone: str | None = None
        self._ending: tuple[int, ErrorCode] | None = None

    def read_register(self, place: int) -> int:
        if self._gone == "vanished":
            raise OSError("the device vanished")
        if self.fault == "other bitstream" and place == offset("ARCH_HASH"):
            return self._registers[place] ^ 1
        return 0xFFFFFFFF if self._gone else self._registers[place]

    def write_register(self, place: int, value: int) -> None:
        if self._gone == "vanished":
            raise OSError("the device vanished")
        if place == offset("CONTROL"):
            self._registers[offset("STATUS")] = 0
            self._ending = None
            if value & bit("CONTROL", "START"):
                self._start()
        elif place == offset("IRQ_STATUS"):
            self._registers[place] &= ~value
        else:
            self._registers[place] = value

    def read_memory(self, address: int, size_bytes: int) -> bytes:
        start = address - self.memory_base
        assert 0 <= start <= start + size_bytes <= self.memory_bytes
        return bytes(self._memory[start : start + size_bytes])

    def write_memory(self, address: int, data: bytes | bytearray | memoryview) -> None:
        start = address - self.memory_base
        assert 0 <= start <= start + len(data) <= self.memory_bytes
        self._memory[start : start + len(data)] = data

    def _window(self, name: str) -> tuple[int, int]:
        low, high = (self._registers[offset(f"{name}_BASE_{half}")] for half in ("LO", "HI"))
        assert low % registers.WINDOW_ALIGNMENT == 0
        return low | high << 32, self._registers[offset(f"{name}_SIZE")]

    def _start(self) -> None:
        self.frames += 1
        fault, self.fault = self.fault, None
        self._registers[offset("STATUS")] = bit("STATUS", "BUSY")
        if fault in ("all ones", "vanished"):
            self._gone = fault
        elif fault in ("bus error", "watchdog"):
            code = ErrorCode.BUS if fault == "bus error" else ErrorCode.WATCHDOG
            self._ending = (ERROR, code)
        elif fault != "hang":
            self._compute(fault == "wrong codes")
            self._ending = (DONE, ErrorCode.NONE)
        self._silent = fault == "lost interrupt"

    def _compute(self, spoiled: bool) -> None:
        arch = self._bundle.arch
        program = self.read_memory(*self._window("PROGRAM"))
        (task,) = (name for name, raw in self._bundle.programs.items() if raw == program)
        graph = self._bundle.graphs[task]
        assert self.read_memory(*self._window("CONSTANT")) == self._bundle.constants[task]
        for port, part in enumerate(layout.split_ports(arch, self._bundle.weights)):
            assert self.read_memory(*self._window(f"WEIGHT{port}")) == part
        rows, inputs = graph.gather.shape
        raw = np.frombuffer(self.read_memory(*self._window("INPUT")), np.int8)
        codes = self._answers[task](raw.reshape(rows, -1)[None, :, :inputs])[0] + spoiled
        shapes = [(head.rows, head.linear.outputs) for head in graph.heads]
        chunks = layout.output_offsets(arch, shapes)[-1]
        drained = np.zeros(chunks * arch.lanes, "<i2")
        drained[layout.outputs_index(arch, shapes)] = codes
        parts = drained.view(np.uint8).reshape(chunks, arch.output_ports, -1)
        for port in range(arch.output_ports):
            address, size = self._window(f"OUTPUT{port or ''}")
            assert size == parts[:, port].size
            self.write_memory(address, parts[:, port].tobytes())

    def run(self, max_cycles: int) -> bool:
        if self._gone == "vanished":
            raise OSError("the device vanished")
        if self._ending is not None:
            cause, code = self._ending
            self._ending = None
            self._registers[offset("IRQ_STATUS")] |= cause
            self._registers[offset("STATUS")] = bit("STATUS", "DONE" if cause == DONE else "ERROR")
            self._registers[offset("ERROR")] = int(code)
            return not self._silent
        return False

    def close(self) -> None:
        self.closed = True


class MockAccelerator(Accelerator):
    """The C driver on a :class:`RegisterMock`, as a device of a session."""

    name = "mock"
    opened: list[MockAccelerator] = []
    """Every one that has been opened, the newest last; tests clear it."""

    def __init__(self, bundle: Bundle, watchdog_cycles: int = 1_000_000) -> None:
        self.transport = RegisterMock(bundle)
        super().__init__(Driver(TransportPlatform(self.transport), bundle, watchdog_cycles))
        MockAccelerator.opened.append(self)

    def meet(self, fault: str) -> None:
        """Let the next frame meet a fault."""
        self.transport.fault = fault

    def close(self) -> None:
        super().close()
        self.transport.close()
