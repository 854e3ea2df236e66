"""What ``moesaic estimate`` reads and shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from moesaic.cli.time_view import frame_time, shared_times, time_line
from moesaic.spec.arch import ArchConfig
from moesaic.spec.clocks import Clock, find_clock
from moesaic.spec.errors import UserError
from moesaic.spec.joint import joint_frames

if TYPE_CHECKING:
    from moesaic.compiler.estimate.task import Estimate
    from moesaic.spec.memory import Dram


def read_routing(path: Path) -> dict[str, list[int]]:
    """Layer names to the token counts of the experts.

    Raises
    ------
    UserError
        The file cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"routing file {path} cannot be read as JSON: {error}") from error
    good = isinstance(value, dict) and all(
        isinstance(rows, list) and all(type(count) is int for count in rows)
        for rows in value.values()
    )
    if not good:
        raise UserError(f"routing file {path} must map layer names to lists of token counts")
    return dict(value)


def estimate_report(
    arch: ArchConfig,
    results: dict[str, Estimate],
    clock_mhz: float | None,
    bandwidth: float,
    frames: int = 1,
    dram: Dram | None = None,
) -> dict[str, Any]:
    """Cycles and times of every task, for JSON and tables; tasks as ``Estimate.to_dict``, which are
    those of ``frames`` frames together, or of as many as the name says, beside ``frame_cycles``,
    times and ``energy`` of one."""
    from moesaic.compiler.estimate.energy import estimated_energy

    clock = find_clock(arch, clock_mhz)
    tasks = {}
    for task, found in results.items():
        moved, count = found.weight_bytes + found.data_bytes, frames * joint_frames(task)
        energy = estimated_energy(arch, clock, found, count)
        tasks[task] = {
            **found.to_dict(),
            "frames": count,
            "frame_cycles": found.cycles / count,
            **frame_time(arch, clock, found.cycles / count, moved / count, bandwidth, dram),
            "dram_shares": shared_times(arch, clock, found.cycles_at, count),
            "energy": energy.to_dict() if energy else None,
        }
    return {"target": arch.name, **clock.to_dict(), "tasks": tasks}


def estimate_tables(report: dict[str, Any]) -> Iterator[Table]:
    """Cycles by layer and by kind of layer for every task."""
    clock = Clock(report["clock_mhz"], report["clock_source"])
    for task, figures in report["tasks"].items():
        frames = figures["frames"]
        total, layers = figures["cycles"], figures["layers"]
        several, each = "", ""
        if frames > 1:
            several = f", {frames} frames" if joint_frames(task) == 1 else ""
            each = f", {figures['frame_cycles']:,.0f} a frame"
        table = Table(
            title=f"{task}{several} on {report['target']}: {total:,} cycles{each}, roofline"
            f" {figures['roofline_cycles']:,.0f}, utilisation {figures['utilisation']:.2f}\n"
            f"{time_line(clock, figures)}"
        )
        for column in ("layer", "cycles", "share", "array busy", "weight KB"):
            table.add_column(column, justify="left" if column == "layer" else "right")
        for layer in layers:
            table.add_row(*_cells(layer["label"], [layer], total))
        table.add_section()
        for kind in figures["kinds"]:
            same = [layer for layer in layers if layer["kind"] == kind]
            table.add_row(*_cells(f"all {kind} ({len(same)})", same, total))
        table.add_section()
        table.add_row(
            *_cells(f"{'frame' if frames == 1 else 'frames'} ({len(layers)})", layers, total)
        )
        table.caption = "busy: " + ", ".join(
            f"{unit} {cycles / total:.0%}" for unit, cycles in figures["busy"].items()
        )
        yield table


def _cells(title: str, layers: list[dict[str, Any]], total: int) -> list[str]:
    """Layers together, as cells of a row."""
    cycles, busy, size = (
        sum(layer[name] for layer in layers) for name in ("cycles", "matrix_busy", "weight_bytes")
    )
    shares = f"{cycles / total:.1%}", f"{busy / max(cycles, 1):.1%}"
    return [title, f"{cycles:,}", *shares, f"{size / 1e3:,.0f}"]
