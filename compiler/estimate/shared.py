"""A DDR memory behind all ports, for the cost model: its shares for the accelerator's patterns."""

from __future__ import annotations

from functools import cache

from moesaic.compiler.estimate.cycles.timing import OUTSTANDING_BURSTS, Memory, SharedBus
from moesaic.compiler.estimate.ddr import DdrModel, Request
from moesaic.spec import layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.memory import DDR_TIMINGS, DEFAULT_MEMORY, DdrTiming, Dram
from moesaic.spec.registers import WINDOW_ALIGNMENT

_INTERVALS = 3
"""Refreshes that a stream sees: what it loses to them is a mean."""
_SHORTER = 2
"""Reads of the data port (programs, inputs, constants) are in the mean half as long as they may
be: 32 beats of 64 on ``nano``."""
_DISTANCES = 5
"""Distances of the sections of the weight image that are tried: which banks meet depends on it."""


@cache
def ddr_memory(
    arch: ArchConfig,
    dram: Dram,
    clock_mhz: float,
    latency: int = DEFAULT_MEMORY.latency_cycles,
    apart: int | None = None,
) -> Memory:
    """The memory of a target behind one controller.

    Parameters
    ----------
    arch
        Its ports, and how long bursts are.
    dram
        Of a kind in :data:`~moesaic.spec.memory.DDR_TIMINGS`.
    clock_mhz
        Of the ports.
    latency
        Cycles of a read to an open row on a free bus.
    apart
        Bytes from the weights of a port to those of the next one, which say whether ports meet in a
        bank; by default a mean over several.
    """
    return Memory(latency=latency, bus=_Patterns(arch, dram, clock_mhz, latency).bus(apart))


def weights_apart(arch: ArchConfig, weight_bytes: int) -> int:
    """Bytes from the weights of a port to those of the next one in an image of so many."""
    return layout.words(weight_bytes // arch.weight_ports, WINDOW_ALIGNMENT) * WINDOW_ALIGNMENT


class _Patterns:
    """Weights as they are read, alone and beside reads and writes of the data port."""

    def __init__(self, arch: ArchConfig, dram: Dram, clock_mhz: float, latency: int) -> None:
        self.arch, self.dram, self.latency = arch, dram, latency
        self.timing: DdrTiming = DDR_TIMINGS[dram.kind]
        self.period = round(1e6 / clock_mhz)
        # Of the whole bus at its peak.
        self.bytes_per_cycle = dram.gigabytes_per_second * self.period / 1e3
        span = self.timing.groups * self.timing.columns * dram.data_bits // 8
        self.turn = span * self.timing.banks
        cycles = _INTERVALS * self.timing.refresh_interval_ps / self.period
        rate = min(arch.line_bytes, self.bytes_per_cycle)
        self.size = int(cycles * rate / arch.weight_ports) // WINDOW_ALIGNMENT * WINDOW_ALIGNMENT

    def bus(self, apart: int | None) -> SharedBus:
        arch = self.arch
        # Multiples of 4 KiB, spread over a round of the banks; what is whole rounds does not count.
        steps = [(2 * n + 1) * self.turn // (2 * _DISTANCES) for n in range(_DISTANCES)]
        if apart is not None:
            steps = [apart % self.turn]
        first = layout.words(self.size, self.turn) * self.turn
        names = ("weights", "read", "write", "read_busy", "write_busy")
        mean = dict.fromkeys(names, 0.0)
        for step in steps:
            distance = first + step // WINDOW_ALIGNMENT * WINDOW_ALIGNMENT
            alone, _, _ = self._cycles(distance, None)
            beats = self.size / arch.weight_port_bytes
            mean["weights"] += beats / alone / len(steps)
            for name, write in (("read", False), ("write", True)):
                longer, moved, until = self._cycles(distance, write)
                mean[name] += max(0.0, longer - alone) / moved / len(steps)
                mean[f"{name}_busy"] += min(1.0, moved / until) / len(steps)
        burst = arch.max_burst * arch.weight_port_bytes / self.bytes_per_cycle
        timing = self.timing
        lost = timing.precharge_ps + timing.refresh_ps + timing.activate_ps + timing.read_ps
        refreshed = 1 - lost / timing.refresh_interval_ps
        bound = mean["weights"] < refreshed  # requests for weights queue up, and are older
        return SharedBus(
            weights=mean["weights"],
            data=min(1.0, self.bytes_per_cycle / arch.data_port_bytes) * refreshed,
            read_busy=mean["read_busy"],
            write_busy=mean["write_busy"],
            read_cost=mean["read"],
            write_cost=mean["write"],
            busy_wait=timing.most_passes * burst if bound else burst,
            credit=timing.read_buffer_bytes // arch.weight_port_bytes,
        )

    def _cycles(self, apart: int, write: bool | None) -> tuple[float, float, float]:
        """Cycles of all weights, beats of the data port meanwhile, and how long these took."""
        arch = self.arch
        model = DdrModel(
            self.timing, self.dram.data_bits, self.period, self.latency, OUTSTANDING_BURSTS
        )
        traffic = [
            self._stream(port * apart, self.size, arch.weight_port_bytes, False, arch.max_burst)
            for port in range(arch.weight_ports)
        ]
        sizes = [arch.weight_port_bytes] * arch.weight_ports
        if write is not None:
            base = arch.weight_ports * apart
            longest = arch.max_burst if write else arch.max_burst // _SHORTER
            size = self.size // 8
            traffic.append(self._stream(base, size, arch.data_port_bytes, write, longest))
            sizes.append(arch.data_port_bytes)
        model.run(traffic, sizes)
        ends = [max(port.read_cycles) for port in model.ports[: arch.weight_ports]]
        last = max(ends)
        if write is None:
            return last - self.latency, 0.0, 0.0
        data = model.ports[-1]
        done = data.write_cycles if write else data.read_cycles
        beats = traffic[-1][0].beats
        mine = [cycle for cycle in done if cycle <= last]
        return last - self.latency, beats * len(mine), max(mine) - self.latency

    def _stream(
        self, base: int, size: int, data_bytes: int, write: bool, longest: int
    ) -> list[Request]:
        beats = min(longest, WINDOW_ALIGNMENT // data_bytes)
        step = beats * data_bytes
        return [Request(base + at, beats, write) for at in range(0, size, step)]
