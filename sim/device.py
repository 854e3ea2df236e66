"""The accelerator simulated inside this process, cycle by cycle."""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from moesaic.host.failures import TransportError
from moesaic.sim.dram import CDramConfig, CPortStatistics, DramConfig, PortStatistics
from moesaic.sim.library import build_library, trace_format
from moesaic.sim.profile import RECORD, RawProfile, Traffic

_CHUNK_CYCLES = 1 << 13  # how long C++ runs before Python can see Ctrl-C or show progress
_BUS_TIMEOUT_CYCLES = 10_000
_RESPONSES = {1: "EXOKAY", 2: "SLVERR", 3: "DECERR"}


class SimulationError(TransportError):
    """The RTL broke the AXI protocol, an assertion in it failed, or it does not settle."""


class Fault(enum.IntEnum):
    """What the memory can be told to do wrong."""

    ERROR = 0
    """Answer with SLVERR: reads return 0xEE bytes, writes are lost."""
    HANG = 1
    """Accept the address and never answer. The port is stuck from then on."""


class _Result(enum.IntEnum):
    """``RunResult`` and ``BusResult`` of ``harness/harness.cpp``."""

    TIMEOUT = -2
    FAILURE = -1
    CYCLES_DONE = 0
    INTERRUPT = 1
    VIOLATION = 2


def _load(library: Path) -> ctypes.CDLL:
    dll = ctypes.CDLL(str(library))
    handle, u32, u64, integer = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int
    text, config = ctypes.c_char_p, ctypes.POINTER(CDramConfig)
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "create": (handle, [u64, u64, config, u32]),
        "destroy": (None, [handle]),
        "error": (text, [handle]),
        "configure": (None, [handle, config]),
        "reset": (integer, [handle, u32]),
        "run": (integer, [handle, u64, integer]),
        "write_register": (integer, [handle, u32, u32, u32]),
        "read_register": (integer, [handle, u32, ctypes.POINTER(u32), u32]),
        "memory": (handle, [handle]),
        "cycles": (u64, [handle]),
        "interrupt": (integer, [handle]),
        "port_count": (u32, [handle]),
        "port_name": (text, [handle, u32]),
        "port_bytes": (u32, [handle, u32]),
        "port_statistics": (None, [handle, u32, ctypes.POINTER(CPortStatistics)]),
        "clear_statistics": (None, [handle]),
        "start_profile": (integer, [handle]),
        "profile_cycles": (u32, [handle]),
        "profile_records": (u64, [handle, ctypes.POINTER(handle)]),
        "profile_bytes": (u64, [handle, ctypes.POINTER(handle)]),
        "add_fault": (None, [handle, u32, u64, u64]),
        "clear_faults": (None, [handle]),
        "violation_count": (u32, [handle]),
        "violation": (text, [handle, u32]),
        "clear_violations": (None, [handle]),
        "open_trace": (integer, [handle, text]),
        "close_trace": (None, [handle]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(dll, f"moesaic_{name}")
        function.restype, function.argtypes = result, arguments
    return dll


class SimDevice:
    """A simulated accelerator and its DRAM; implements :class:`moesaic.host.transport.Transport`.

    Parameters
    ----------
    library:
        What :func:`moesaic.sim.library.build_library` returned.
    memory_bytes, memory_base:
        The DRAM: ``memory_bytes`` zero bytes from address ``memory_base``. Only pages that are
        touched cost memory. A master that leaves it gets DECERR.
    dram:
        Timing of the DRAM and its checks.
    power_up_seed:
        On-chip memories, which hardware does not initialise, start with random contents from
        this seed (1 to 2**31 - 1), or with zeros if it is 0. Results must not depend on it.
    trace:
        A waveform file, or a SAIF file, to write from the first cycle on; the library must have
        been built for its format (see :meth:`from_verilog`).

    The design is out of reset when the constructor returns. Everything is deterministic.
    """

    def __init__(
        self,
        library: Path,
        *,
        memory_bytes: int = 1 << 28,
        memory_base: int = 0,
        dram: DramConfig | None = None,
        power_up_seed: int = 1,
        trace: Path | None = None,
    ) -> None:
        self._handle: int | None = None
        self.on_advance: Callable[[int], None] | None = None
        """Called now and then while it runs, with the cycles since the last call."""
        self._dll = _load(library)
        config = CDramConfig.of(dram or DramConfig())
        self._handle = self._dll.moesaic_create(
            memory_base, memory_bytes, ctypes.byref(config), power_up_seed
        )
        if not self._handle:
            raise SimulationError(self._dll.moesaic_error(None).decode())
        self._memory_base, self._memory_bytes = memory_base, memory_bytes
        self._memory = self._dll.moesaic_memory(self._handle)
        if trace is not None:
            self.start_trace(trace)

    @classmethod
    def from_verilog(cls, verilog: str, *, trace: Path | None = None, **options: Any) -> Self:
        """Build the simulator of the Verilog text (or take it from the cache) and start it.

        ``options`` are those of the constructor. ``trace`` ends in ``.vcd``, ``.fst`` or ``.saif``.
        """
        library = build_library(verilog, trace=trace_format(trace) if trace else None)
        return cls(library, trace=trace, **options)

    @property
    def memory_base(self) -> int:
        """First address of the DRAM, in bytes."""
        return self._memory_base

    @property
    def memory_bytes(self) -> int:
        """Size of the DRAM, in bytes."""
        return self._memory_bytes

    @property
    def cycles(self) -> int:
        """Clock cycles since the device was made, those of register accesses included."""
        return int(self._dll.moesaic_cycles(self._handle))

    @property
    def interrupt(self) -> bool:
        """Whether ``irq`` is high now."""
        return bool(self._dll.moesaic_interrupt(self._handle))

    def read_register(self, offset: int) -> int:
        """Read a 32-bit register over AXI4-Lite; takes a few cycles."""
        value = ctypes.c_uint32()
        status = self._dll.moesaic_read_register(
            self._handle, offset, ctypes.byref(value), _BUS_TIMEOUT_CYCLES
        )
        self._check_bus(status, f"reading register 0x{offset:03x}")
        return value.value

    def write_register(self, offset: int, value: int) -> None:
        """Write a 32-bit register over AXI4-Lite; takes a few cycles."""
        if not 0 <= value < 1 << 32:
            raise ValueError(f"value must be 0 to 2**32 - 1, not {value!r}")
        status = self._dll.moesaic_write_register(self._handle, offset, value, _BUS_TIMEOUT_CYCLES)
        self._check_bus(status, f"writing register 0x{offset:03x}")

    def read_memory(self, address: int, size_bytes: int) -> bytes:
        """Copy bytes out of the DRAM; takes no cycles."""
        return ctypes.string_at(self._locate(address, size_bytes), size_bytes)

    def write_memory(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes into the DRAM; takes no cycles."""
        plain = bytes(data)
        ctypes.memmove(self._locate(address, len(plain)), plain, len(plain))

    def run(self, max_cycles: int) -> bool:
        """Simulate until ``irq`` is high, at most ``max_cycles``; return whether it is.

        Raises SimulationError at the first protocol violation.
        """
        return self._run(max_cycles, True)

    def step(self, cycles: int) -> None:
        """Simulate exactly ``cycles`` cycles, whatever ``irq`` does."""
        self._run(cycles, False)

    def reset(self, cycles: int = 8) -> None:
        """Hold ``rst`` for ``cycles`` cycles. The DRAM keeps its bytes and forgets its bursts."""
        self._check(self._dll.moesaic_reset(self._handle, cycles))

    def configure(self, dram: DramConfig) -> None:
        """Change the DRAM's timing. Only while no burst is outstanding."""
        self._dll.moesaic_configure(self._handle, ctypes.byref(CDramConfig.of(dram)))

    def dram_statistics(self) -> dict[str, PortStatistics]:
        """Counters of every AXI4 port by its name (``w0``, ..., ``d``)."""
        result = {}
        for index in range(self._dll.moesaic_port_count(self._handle)):
            counters = CPortStatistics()
            self._dll.moesaic_port_statistics(self._handle, index, ctypes.byref(counters))
            name = self._dll.moesaic_port_name(self._handle, index).decode()
            width = self._dll.moesaic_port_bytes(self._handle, index)
            result[name] = PortStatistics(name, width, **counters.values())
        return result

    def clear_dram_statistics(self) -> None:
        """Set the counters of every port to zero."""
        self._dll.moesaic_clear_statistics(self._handle)

    def start_profile(self) -> None:
        """Record what the units do in the next frame. Raises ValueError if there are none."""
        if not self._dll.moesaic_start_profile(self._handle):
            raise ValueError("the simulated design must be an accelerator to be profiled")

    def profile(self) -> RawProfile:
        """The record of the frame since :meth:`start_profile`."""

        def array(name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
            data = ctypes.c_void_p()
            count = getattr(self._dll, name)(self._handle, ctypes.byref(data))
            raw = ctypes.string_at(data, count * dtype.itemsize) if count else b""
            return np.frombuffer(raw, dtype)

        records = array("moesaic_profile_records", RECORD)
        ports = self.dram_statistics()
        moved = array("moesaic_profile_bytes", np.dtype("<u4")).reshape(-1, len(ports), 2)
        return RawProfile(
            int(self._dll.moesaic_profile_cycles(self._handle)),
            records,
            {
                name: Traffic(port.data_bytes, moved[:, i, 0], moved[:, i, 1])
                for i, (name, port) in enumerate(ports.items())
            },
        )

    def start_trace(self, path: Path) -> None:
        """Write a trace from now on, instead of one that is being written; the library must have
        been built for its format."""
        self.stop_trace()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._check(self._dll.moesaic_open_trace(self._handle, str(path).encode()))

    def stop_trace(self) -> None:
        """Finish the file of :meth:`start_trace`, if there is one."""
        self._dll.moesaic_close_trace(self._handle)

    def inject_fault(self, fault: Fault, address: int, size_bytes: int) -> None:
        """Apply ``fault`` to every burst accepted from now on that touches these bytes."""
        self._dll.moesaic_add_fault(self._handle, int(fault), address, address + size_bytes)

    def clear_faults(self) -> None:
        """Forget injected faults. A port that hangs already needs :meth:`reset`."""
        self._dll.moesaic_clear_faults(self._handle)

    def close(self) -> None:
        """End the simulation and finish the waveform file."""
        if self._handle:
            self._dll.moesaic_close_trace(self._handle)
            self._dll.moesaic_destroy(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _run(self, cycles: int, stop_on_interrupt: bool) -> bool:
        last = self.cycles + cycles
        while True:
            before = self.cycles
            chunk = min(_CHUNK_CYCLES, last - before)
            status = self._check(self._dll.moesaic_run(self._handle, chunk, stop_on_interrupt))
            if self.on_advance is not None:
                self.on_advance(self.cycles - before)
            if status == _Result.INTERRUPT or self.cycles >= last:
                return status == _Result.INTERRUPT

    def _check(self, status: int) -> int:
        """Raise what the C++ side reported; the state is undefined after a failure."""
        if status == _Result.FAILURE:
            raise SimulationError(self._dll.moesaic_error(self._handle).decode())
        count = self._dll.moesaic_violation_count(self._handle)
        if count:
            found = [self._dll.moesaic_violation(self._handle, i).decode() for i in range(count)]
            self._dll.moesaic_clear_violations(self._handle)
            raise SimulationError("AXI4 violation: " + "; ".join(found))
        return status

    def _check_bus(self, status: int, what: str) -> None:
        self._check(status)
        if status == _Result.TIMEOUT:
            raise TransportError(f"{what}: no response in {_BUS_TIMEOUT_CYCLES} cycles")
        if status > 0:
            raise TransportError(f"{what}: the response is {_RESPONSES[status]}")

    def _locate(self, address: int, size_bytes: int) -> int:
        offset = address - self._memory_base
        if offset < 0 or size_bytes < 0 or offset + size_bytes > self._memory_bytes:
            raise ValueError(
                f"address must lie in the {self._memory_bytes} bytes from "
                f"0x{self._memory_base:x}, not {size_bytes} bytes from 0x{address:x}"
            )
        return int(self._memory) + offset
