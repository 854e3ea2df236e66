"""The external memory that every reported figure assumes, and the least that a frame needs of it.

Cost model, simulated DRAM, command line and benchmarks take their defaults from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moesaic.spec.arch import ArchConfig


@dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """What the memory behind every AXI4 port does.

    Attributes
    ----------
    latency_cycles
        From an accepted read address to its first beat, and from the last write beat to the
        write response.
    bandwidth_share
        Sustained beats per cycle of one port, reads and writes together, 0 < share <= 1.
    burst_credit_beats
        How many beats a port that was idle may then transfer above that share.
    gap_probability
        Of a pause after a beat, 0 to 1.
    max_gap_cycles
        Pauses last 1 to this many cycles, all equally likely.
    """

    latency_cycles: int = 60
    bandwidth_share: float = 0.9
    burst_credit_beats: int = 64
    gap_probability: float = 1 / 256
    max_gap_cycles: int = 16

    @property
    def mean_gap_cycles(self) -> float:
        """Mean pause after a beat."""
        return self.gap_probability * (1 + self.max_gap_cycles) / 2


DEFAULT_MEMORY = MemoryTiming()
BOARD_SHARE = 0.7
"""Of the theoretical peak of a board's DRAM, what its ports are taken to sustain."""
COMPARED_SHARES = (DEFAULT_MEMORY.bandwidth_share, BOARD_SHARE, 0.45)
"""What reports show side by side, for no share is known before it is measured on a board.

The first is what single figures assume. 75 % of its theoretical peak is what a ZCU102 gave to the
ports of its logic (Manev, Vaishnav, Koch: Unexpected Diversity, FPT 2019), so 0.7 leaves a
little to others; with 0.45 they take half.
"""


def share_name(share: float) -> str:
    """A share as reports name it: ``"0.9"``."""
    return f"{share:g}"


@dataclass(frozen=True, kw_only=True)
class DdrTiming:
    """Times of a DDR memory in picoseconds, its rows, and what its controller is taken to do.

    Attributes
    ----------
    clock_ps
        Of the memory: two transfers. An access is eight.
    groups, banks, columns
        Groups of banks, banks in each, and transfers in a row. Accesses of a burst take turns
        between groups, so that they follow each other without a gap: a row of every group is open
        at a time.
    refresh_interval_ps, refresh_ps
        tREFI, in which all banks are refreshed once, and tRFC, in which nothing else happens.
    precharge_ps, activate_ps, row_open_ps, activate_window_ps
        tRP, tRCD, tRAS, and tFAW, in which four rows may be opened.
    read_ps, write_ps
        CL and CWL: command to the first transfer.
    read_to_close_ps, write_recovery_ps
        tRTP from a read, tWR from the last transfer of a write, to closing the row.
    write_to_read_ps, read_to_write_ps
        tWTR from the last transfer of a write to a read; from the last transfer of a read to the
        first of a write.
    read_buffer_bytes, write_buffer_bytes, most_passes
        **Assumptions on the controller**, whose makers do not say: what it has fetched for a port
        that has not taken it, at most, but a burst at the least; what it holds of writes, half of
        which go in front of reads; how many requests may overtake one.
    """

    clock_ps: int
    groups: int
    banks: int
    columns: int
    refresh_interval_ps: int
    refresh_ps: int
    precharge_ps: int
    activate_ps: int
    row_open_ps: int
    activate_window_ps: int
    read_ps: int
    write_ps: int
    read_to_close_ps: int
    write_recovery_ps: int
    write_to_read_ps: int
    read_to_write_ps: int
    read_buffer_bytes: int = 2048
    write_buffer_bytes: int = 4096
    most_passes: int = 4


DDR4_2400 = DdrTiming(
    clock_ps=833,  # 1200 MHz
    groups=2,
    banks=4,
    columns=1024,
    refresh_interval_ps=7_800_000,  # up to 85 degrees
    refresh_ps=350_000,  # of 8 Gbit
    precharge_ps=14_160,
    activate_ps=14_160,
    row_open_ps=32_000,
    activate_window_ps=30_000,  # pages of 2 KB
    read_ps=14_160,
    write_ps=16 * 833,
    read_to_close_ps=7_500,
    write_recovery_ps=15_000,
    write_to_read_ps=7_500,  # of the same group: a burst has just written both
    read_to_write_ps=2 * 833,
)
"""DDR4-2400T (17-17-17) of parts with 8 Gbit and 16 bits: Micron's MT40A512M16, four of which are
an MTA4ATF51264HZ, a SODIMM of 4 GB as ZCU102s have it. Others of them have eight parts of 8 bits.

Speed bin and times of JESD79-4. As gem5's ``DDR4_2400_4x16`` has them from that part's datasheet:
tCK, tRCD, CL, tRP, tRAS, tRFC, tREFI, tWR, tRTP, tFAW, the bus's turnaround, groups, banks and
columns. CL, tRCD and tRP of 17 and CWL of 16 clocks, tRAS and tFAW also as Opal Kelly sets the
processing system of a Zynq UltraScale+ for such parts (ECM1900, 2400T). tWTR_L of JESD79-4; gem5
takes the mean with tWTR_S.
"""
DDR_TIMINGS = {"DDR4-2400": DDR4_2400}
"""By :attr:`Dram.kind`."""


@dataclass(frozen=True)
class Dram:
    """The memory of a board: name of its speed bin, 10**6 transfers a second, and bits of each."""

    kind: str
    megatransfers: int
    data_bits: int

    @property
    def gigabytes_per_second(self) -> float:
        """The theoretical peak, in 10**9 bytes per second, of all ports and both directions."""
        return self.megatransfers * self.data_bits / 8e3

    def __str__(self) -> str:
        return f"{self.gigabytes_per_second:.3g} GB/s ({self.kind}, {self.data_bits} bit)"


def sustained_bytes(arch: ArchConfig, bandwidth_share: float) -> float:
    """Bytes per cycle, both directions together, that cycle counts assume of all ports' memory."""
    return (arch.line_bytes + arch.data_port_bytes) * bandwidth_share


def board_share(arch: ArchConfig, dram: Dram, clock_mhz: float) -> float:
    """Share of the ports' peak that a board's DRAM sustains at a clock, 0 < share < 1: all ports
    together have :data:`BOARD_SHARE` of its peak, and none more than single figures assume."""
    there = BOARD_SHARE * dram.gigabytes_per_second * 1e3 / clock_mhz
    return min(DEFAULT_MEMORY.bandwidth_share, there / sustained_bytes(arch, 1.0))


def roofline_cycles(
    arch: ArchConfig, macs: int, weight_bytes: int, read_bytes: int, written_bytes: int
) -> float:
    """Least cycles of a frame: array at full rate, weight, data and output ports at peak.

    ``read_bytes`` are those of the data port. A channel of each direction works on its own.
    """
    return max(
        macs / arch.macs_per_cycle,
        weight_bytes / arch.line_bytes,
        read_bytes / arch.data_port_bytes,
        written_bytes / arch.output_line_bytes,
    )
