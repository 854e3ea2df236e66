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
COMPARED_SHARES = (DEFAULT_MEMORY.bandwidth_share, 0.7, 0.45)
"""What reports show side by side, for no share is known before it is measured on a board.

The first is what single figures assume. 75 % of its theoretical peak is what a ZCU102 gave to the
ports of its logic (Manev, Vaishnav, Koch: Unexpected Diversity, FPT 2019), so 0.7 leaves a
little to others; with 0.45 they take half.
"""


def share_name(share: float) -> str:
    """A share as reports name it: ``"0.9"``."""
    return f"{share:g}"


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
