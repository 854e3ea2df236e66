"""Cycles of a frame as time, beside the clock and the memory that make it so."""

from __future__ import annotations

from moesaic.spec.arch import ArchConfig
from moesaic.spec.clocks import Clock
from moesaic.spec.memory import sustained_bytes


def frame_time(
    arch: ArchConfig, clock: Clock, cycles: float, moved_bytes: float, bandwidth_share: float
) -> dict[str, float]:
    """A frame at a clock.

    Parameters
    ----------
    arch
        Its ports count the cycles against a memory of so many bytes per cycle.
    clock
        Makes GB/s of them: a slower clock asks less of the same memory.
    cycles, moved_bytes
        Of a frame; bytes in both directions.
    bandwidth_share
        What ports sustain of their peak.

    Returns
    -------
    dict
        ``ms``; ``dram_given_gb_s``, which the cycles assume of DRAM, and ``dram_needed_gb_s``,
        which the frame moves in the mean, both in 10**9 bytes per second.
    """
    return {
        "ms": clock.milliseconds(cycles),
        "dram_given_gb_s": clock.gigabytes_per_second(sustained_bytes(arch, bandwidth_share)),
        "dram_needed_gb_s": clock.gigabytes_per_second(moved_bytes, cycles),
    }


def time_line(clock: Clock, figures: dict[str, float]) -> str:
    """``figures`` of :func:`frame_time` with the clock and its source, as a line."""
    return (
        f"{figures['ms']:.3g} ms at {clock}, if DRAM sustains {figures['dram_given_gb_s']:.1f}"
        f" GB/s; a frame moves {figures['dram_needed_gb_s']:.1f} in the mean"
    )
