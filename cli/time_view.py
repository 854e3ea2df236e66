"""Cycles of a frame as time, beside the clock and the memory that make it so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moesaic.spec.arch import ArchConfig
from moesaic.spec.boards import dram_of
from moesaic.spec.clocks import Clock
from moesaic.spec.memory import Dram, sustained_bytes


def frame_time(
    arch: ArchConfig,
    clock: Clock,
    cycles: float,
    moved_bytes: float,
    bandwidth_share: float,
    dram: Dram | None = None,
) -> dict[str, float | str | None]:
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
    dram
        The memory with times of its own that the cycles are of, instead of a share.

    Returns
    -------
    dict
        ``ms``; ``dram_given_gb_s``, which the cycles assume of DRAM, and ``dram_needed_gb_s``,
        which the frame moves in the mean, both in 10**9 bytes per second; ``dram_peak_gb_s``, the
        theoretical peak of the DRAM on the target's board, ``None`` where it has none; ``dram``,
        the one with times of its own, or ``None``: its peak is ``dram_given_gb_s`` then.
    """
    board = dram_of(arch)
    given = clock.gigabytes_per_second(sustained_bytes(arch, bandwidth_share))
    return {
        "ms": clock.milliseconds(cycles),
        "dram_given_gb_s": dram.gigabytes_per_second if dram else given,
        "dram": str(dram) if dram else None,
        "dram_needed_gb_s": clock.gigabytes_per_second(moved_bytes, cycles),
        "dram_peak_gb_s": board.gigabytes_per_second if board else None,
    }


def time_line(clock: Clock, figures: Mapping[str, Any]) -> str:
    """``figures`` of :func:`frame_time` with the clock and its source, as a line."""
    peak = figures["dram_peak_gb_s"]
    board = f"; its board's DRAM has {peak:.1f} at its theoretical peak" if peak else ""
    given = f"if DRAM sustains {figures['dram_given_gb_s']:.1f} GB/s"
    if figures["dram"]:
        given, board = f"behind {figures['dram']} with refreshes, turnarounds and rows", ""
    return (
        f"{figures['ms']:.3g} ms at {clock}, {given}; a frame moves"
        f" {figures['dram_needed_gb_s']:.1f} in the mean{board}"
    )


def shared_times(
    arch: ArchConfig, clock: Clock, cycles_at: Mapping[str, int], frames: int = 1
) -> list[dict[str, float]]:
    """A frame at each of the shares that are compared, for JSON and :func:`shares_line`.

    Parameters
    ----------
    arch, clock
        As for :func:`frame_time`.
    cycles_at
        Share of its peak that DRAM sustains, as text, to the cycles of ``frames`` frames.
    frames
        That are computed together.

    Returns
    -------
    list
        ``share``, ``frame_cycles``, ``ms``, and ``dram_given_gb_s`` that these assume.
    """
    return [
        {
            "share": float(share),
            "frame_cycles": cycles / frames,
            "ms": clock.milliseconds(cycles / frames),
            "dram_given_gb_s": clock.gigabytes_per_second(sustained_bytes(arch, float(share))),
        }
        for share, cycles in cycles_at.items()
    ]


def shares_line(times: Sequence[Mapping[str, float]]) -> str:
    """:func:`shared_times` as a line: what they assume stands beside every figure."""
    each = (
        f"{one['share']:.0%} ({one['dram_given_gb_s']:.1f} GB/s) {one['frame_cycles']:,.0f} cycles,"
        f" {one['ms']:.3g} ms"
        for one in times
    )
    return f"a frame if DRAM sustains of its ports' peak {'; '.join(each)}"
