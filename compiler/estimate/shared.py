"""A DDR memory behind all ports, for the cost model: its shares for the accelerator's patterns."""

from __future__ import annotations

from functools import cache

from moesaic.compiler.estimate.cycles.timing import OUTSTANDING_BURSTS, Memory, SharedBus
from moesaic.compiler.estimate.ddr import DdrModel, Request
from moesaic.spec import layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.memory import DDR_TIMINGS, DEFAULT_MEMORY, DdrTiming, Dram
from moesaic.spec.registers import WINDOW_ALIGNMENT, weight_step

_INTERVALS = 3
"""Refreshes that a stream sees: what it loses to them is a mean."""
_SHORTER = 2
"""Reads of the data port (programs, inputs, constants) are in the mean half as long as they may
be: 32 beats of 64 on ``nano``."""


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
        Bytes from the weights of a port to those of the next one, modulo a round of the banks,
        which say whether ports meet in a bank; by default as the driver lays them.
    """
    return Memory(latency=latency, bus=_Patterns(arch, dram, clock_mhz, latency).bus(apart))


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
        apart = weight_step(arch.weight_ports) if apart is None else apart
        # Whole rounds of the banks between ports do not count.
        distance = layout.words(self.size, self.turn) * self.turn + apart % self.turn
        alone, _, _ = self._cycles(distance, None)
        weights = self.size / arch.weight_port_bytes / alone
        costs, busy = [], []
        for write in (False, True):
            longer, moved, until = self._cycles(distance, write)
            costs.append(max(0.0, longer - alone) / moved)
            busy.append(min(1.0, moved / until))
        burst = arch.max_burst * arch.weight_port_bytes / self.bytes_per_cycle
        timing = self.timing
        lost = timing.precharge_ps + timing.refresh_ps + timing.activate_ps + timing.read_ps
        refreshed = 1 - lost / timing.refresh_interval_ps
        bound = weights < refreshed  # requests for weights queue up, and are older
        return SharedBus(
            weights=weights,
            data=min(1.0, self.bytes_per_cycle / arch.data_port_bytes) * refreshed,
            read_busy=busy[0],
            write_busy=busy[1],
            read_cost=costs[0],
            write_cost=costs[1],
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
