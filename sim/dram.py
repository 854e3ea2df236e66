"""Configuration and statistics of the simulated DRAM (the model itself: ``harness/dram.cpp``)."""

from __future__ import annotations

import ctypes
import dataclasses
from dataclasses import dataclass

from moesaic.spec.memory import DEFAULT_MEMORY, DdrTiming


@dataclass(frozen=True)
class SharedDdr:
    """A DDR memory behind all ports together.

    Attributes
    ----------
    timing:
        Of the memory.
    data_bits:
        Of its bus: 8 to 512, a power of two.
    clock_mhz:
        Of the ports, 1 to 2000: cycles are in it.
    """

    timing: DdrTiming
    data_bits: int
    clock_mhz: float

    def __post_init__(self) -> None:
        if self.data_bits not in (8, 16, 32, 64, 128, 256, 512):
            raise ValueError(f"data_bits must be 8 to 512 and a power of two, not {self.data_bits}")
        if not 1 <= self.clock_mhz <= 2000:
            raise ValueError(f"clock_mhz must be 1 to 2000, not {self.clock_mhz!r}")

    @property
    def period_ps(self) -> int:
        """Of the ports' clock."""
        return round(1e6 / self.clock_mhz)


@dataclass(frozen=True, kw_only=True)
class DramConfig:
    """What the memory behind every AXI4 port does. The defaults are those of reported figures.

    Attributes
    ----------
    latency_cycles:
        From an accepted read address to its first beat, and from the last write beat to the
        write response; at least 1. Bursts in flight overlap their latencies.
    bandwidth_share:
        Sustained beats per cycle of one port, reads and writes together, 0 < share <= 1.
    burst_credit_beats:
        How many beats a port that was idle may then transfer above that share.
    gap_probability:
        Of a pause after a beat, 0 to 1. The port then takes and gives nothing new.
    max_gap_cycles:
        Pauses last 1 to this many cycles, all equally likely.
    max_outstanding:
        Bursts accepted and not finished, per port and direction, 1 to 64.
    check_hazards:
        Whether a burst that touches bytes of an unfinished write, or writes bytes of an
        unfinished read, on any port is a violation: their order is undefined on real hardware.
    seed:
        Of the pauses. Equal seeds give equal cycles.
    ddr:
        One controller for all ports: shares, credits and pauses have no meaning then. The latency
        is that to a row that is open already, on a bus that is free.
    """

    latency_cycles: int = DEFAULT_MEMORY.latency_cycles
    bandwidth_share: float = DEFAULT_MEMORY.bandwidth_share
    burst_credit_beats: int = DEFAULT_MEMORY.burst_credit_beats
    gap_probability: float = DEFAULT_MEMORY.gap_probability
    max_gap_cycles: int = DEFAULT_MEMORY.max_gap_cycles
    max_outstanding: int = 16
    check_hazards: bool = True
    seed: int = 1
    ddr: SharedDdr | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("latency_cycles", 1, 2**31),
            ("burst_credit_beats", 1, 2**16),
            ("gap_probability", 0, 1),
            ("max_gap_cycles", 1, 2**16),
            ("max_outstanding", 1, 64),
            ("seed", 0, 2**64 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be {low} to {high}, not {value!r}")
        if not 2**-16 <= self.bandwidth_share <= 1:
            raise ValueError(f"bandwidth_share must be 2**-16 to 1, not {self.bandwidth_share!r}")

    @classmethod
    def ideal(cls) -> DramConfig:
        """One cycle of latency, a beat in every cycle, no pauses."""
        return cls(latency_cycles=1, bandwidth_share=1.0, gap_probability=0.0)


class CDdrConfig(ctypes.Structure):
    """``struct moesaic_ddr_config`` of ``harness/dram_config.h``."""

    _fields_ = [
        (name, ctypes.c_uint32)
        for name in (
            "period_ps clock_ps bus_bytes groups banks columns refresh_interval_ps refresh_ps"
            " precharge_ps activate_ps row_open_ps activate_window_ps read_ps write_ps"
            " read_to_close_ps write_recovery_ps write_to_read_ps read_to_write_ps"
            " read_buffer_bytes write_buffer_bytes most_passes reserved"
        ).split()
    ]

    @classmethod
    def of(cls, ddr: SharedDdr | None) -> CDdrConfig:
        """The C form: all zero for none."""
        if ddr is None:
            return cls()
        rest = dataclasses.asdict(ddr.timing)
        return cls(period_ps=ddr.period_ps, bus_bytes=ddr.data_bits // 8, **rest)


class CDramConfig(ctypes.Structure):
    """``struct moesaic_dram_config`` of ``harness/dram_config.h``."""

    _fields_ = [
        ("latency_cycles", ctypes.c_uint32),
        ("bandwidth_q16", ctypes.c_uint32),
        ("burst_credit_beats", ctypes.c_uint32),
        ("gap_probability_q16", ctypes.c_uint32),
        ("max_gap_cycles", ctypes.c_uint32),
        ("max_outstanding", ctypes.c_uint32),
        ("check_hazards", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("ddr", CDdrConfig),
    ]

    @classmethod
    def of(cls, config: DramConfig) -> CDramConfig:
        """The C form of ``config``: fractions become multiples of 1/65536."""
        plain = config.ddr is None  # the controller alone decides otherwise
        return cls(
            config.latency_cycles,
            round(config.bandwidth_share * 65536) if plain else 65536,
            config.burst_credit_beats,
            round(config.gap_probability * 65536) if plain else 0,
            config.max_gap_cycles,
            config.max_outstanding,
            config.check_hazards,
            0,
            config.seed,
            CDdrConfig.of(config.ddr),
        )


@dataclass(frozen=True)
class PortStatistics:
    """What one AXI4 port did since the counters were cleared.

    Bytes are bus bytes: beats times the bus width, whatever the strobes. ``busy_cycles`` moved a
    beat; in ``stall_cycles`` the master held one up, in ``wait_cycles`` the memory did; in
    ``idle_cycles`` nothing was outstanding. The four add up to the cycles simulated.
    ``first_read_cycle`` is the device's cycle in which the first read was accepted, 0 if none was.
    """

    name: str
    data_bytes: int
    read_bytes: int
    write_bytes: int
    read_bursts: int
    write_bursts: int
    busy_cycles: int
    stall_cycles: int
    wait_cycles: int
    idle_cycles: int
    first_read_cycle: int


class CPortStatistics(ctypes.Structure):
    """``struct PortStatistics`` of ``harness/dram.h``."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "read_bytes",
            "write_bytes",
            "read_bursts",
            "write_bursts",
            "busy_cycles",
            "stall_cycles",
            "wait_cycles",
            "idle_cycles",
            "first_read_cycle",
        )
    ]

    def values(self) -> dict[str, int]:
        """Field names and values."""
        return {name: getattr(self, name) for name, *_ in self._fields_}
