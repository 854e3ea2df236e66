"""The DRAM model alone, with a master whose signals Python sets."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from moesaic.sim import verilator
from moesaic.sim.dram import CDramConfig, CPortStatistics, DramConfig
from moesaic.spec.cache import cached, content_key

_HARNESS = Path(verilator.__file__).parent / "harness"
_SHIM = Path(__file__).parent / "dram_shim.cpp"


class Signals(ctypes.Structure):
    """``struct Signals`` of ``dram_shim.cpp``."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("araddr", "awaddr", "wstrb")),
        *(
            (name, ctypes.c_uint8)
            for name in (
                "arlen arsize arburst arvalid arready rresp rlast rvalid rready "
                "awlen awsize awburst awvalid awready wlast wvalid wready bresp bvalid bready"
            ).split()
        ),
        ("rdata", ctypes.c_uint8 * 64),
        ("wdata", ctypes.c_uint8 * 64),
    ]


@functools.cache
def _library() -> ctypes.CDLL:
    headers = [_HARNESS / name for name in ("dram.h", "ddr.h", "dram_config.h")]
    sources = [_HARNESS / "dram.cpp", _HARNESS / "ddr.cpp", _SHIM]
    key = content_key(
        [verilator.toolchain().identity, *(path.read_bytes() for path in headers + sources)]
    )

    def build(folder: Path) -> None:
        command = [verilator.toolchain().compiler, "-O2", "-std=gnu++20", "-Wall", "-Wextra"]
        command += ["-Werror", "-fPIC", "-shared", f"-I{_HARNESS}", *sources]
        verilator.run_tool([*command, "-o", "libdram.so"], folder, "compiling the DRAM model")

    dll = ctypes.CDLL(str(cached("dram-shim", key, build) / "libdram.so"))
    handle, u64 = ctypes.c_void_p, ctypes.c_uint64
    dll.bench_new.restype = handle
    dll.bench_new.argtypes = [
        u64,
        u64,
        ctypes.POINTER(CDramConfig),
        ctypes.c_uint32,
        ctypes.c_uint32,
    ]
    dll.bench_signals.restype = ctypes.POINTER(Signals)
    dll.bench_memory.restype = handle
    dll.bench_cycle.restype = u64
    dll.bench_violation.restype = ctypes.c_char_p
    for name in "delete memory cycle tick violations statistics".split():
        getattr(dll, f"bench_{name}").argtypes = [handle]
    dll.bench_signals.argtypes = [handle, ctypes.c_uint32]
    dll.bench_violation.argtypes = [handle, ctypes.c_uint32]
    dll.bench_statistics.argtypes = [handle, ctypes.POINTER(CPortStatistics)]
    dll.bench_fault.argtypes = [handle, ctypes.c_uint32, u64, u64]
    return dll


class DramBench:
    """A DRAM of ``size`` bytes at ``base`` with ``data_bytes`` wide ports.

    ``s`` are the signals of the first one, ``ports`` those of all.
    """

    def __init__(
        self,
        config: DramConfig,
        *,
        base: int = 0,
        size: int = 1 << 20,
        data_bytes: int = 16,
        ports: int = 1,
    ) -> None:
        self._dll = _library()
        self._handle = self._dll.bench_new(
            base, size, ctypes.byref(CDramConfig.of(config)), data_bytes, ports
        )
        self.data_bytes, self.base, self.size = data_bytes, base, size
        self.ports = [self._dll.bench_signals(self._handle, i).contents for i in range(ports)]
        self.s = self.ports[0]
        address = self._dll.bench_memory(self._handle)
        self.memory = (ctypes.c_uint8 * size).from_address(address)
        self.tick()

    def __del__(self) -> None:
        self._dll.bench_delete(self._handle)

    @property
    def cycle(self) -> int:
        return int(self._dll.bench_cycle(self._handle))

    @property
    def violations(self) -> list[str]:
        count = self._dll.bench_violations(self._handle)
        return [self._dll.bench_violation(self._handle, i).decode() for i in range(count)]

    @property
    def statistics(self) -> dict[str, int]:
        counters = CPortStatistics()
        self._dll.bench_statistics(self._handle, ctypes.byref(counters))
        return counters.values()

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self._dll.bench_tick(self._handle)

    def fault(self, kind: int, address: int, size: int) -> None:
        self._dll.bench_fault(self._handle, kind, address, address + size)

    def present(self, channel: str, address: int, beats: int) -> None:
        """Put a legal burst on ``ar`` or ``aw`` without waiting for it to be taken."""
        values = (address, beats - 1, self.data_bytes.bit_length() - 1, 1, 1)
        for name, value in zip(("addr", "len", "size", "burst", "valid"), values, strict=True):
            setattr(self.s, channel + name, value)

    def send(self, channel: str, address: int, beats: int) -> int:
        """Present a burst until it is taken; return the cycle in which it was."""
        self.present(channel, address, beats)
        return self._until(channel)

    def send_beat(self, data: bytes, last: bool, strobes: int | None = None) -> int:
        """Present one write beat until it is taken; return the cycle in which it was."""
        self.s.wdata[: self.data_bytes] = list(data)
        self.s.wstrb = (1 << self.data_bytes) - 1 if strobes is None else strobes
        self.s.wlast, self.s.wvalid = last, 1
        return self._until("w")

    def receive_beat(self) -> tuple[int, bytes, int, bool]:
        """Wait for a read beat and take it: (cycle, data, response, last)."""
        self.s.rready = 1
        for _ in range(100_000):
            if self.s.rvalid:
                taken = (self.cycle, bytes(self.s.rdata[: self.data_bytes]))
                rest = (int(self.s.rresp), bool(self.s.rlast))
                self.tick()
                self.s.rready = 0
                return (*taken, *rest)
            self.tick()
        raise TimeoutError("no read beat")

    def receive_response(self) -> tuple[int, int]:
        """Wait for a write response and take it: (cycle, response)."""
        self.s.bready = 1
        for _ in range(100_000):
            if self.s.bvalid:
                taken = (self.cycle, int(self.s.bresp))
                self.tick()
                self.s.bready = 0
                return taken
            self.tick()
        raise TimeoutError("no write response")

    def _until(self, channel: str) -> int:
        for _ in range(100_000):
            taken, cycle = getattr(self.s, channel + "ready"), self.cycle
            self.tick()
            if taken:
                setattr(self.s, channel + "valid", 0)
                return cycle
        raise TimeoutError(f"{channel} was not taken")
