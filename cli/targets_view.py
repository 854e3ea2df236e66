"""What ``moesaic estimate --targets`` shows: targets side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.memories import ram_kind
from moesaic.spec.parts import PARTS, known_part
from moesaic.spec.presets import PRESETS, load_arch
from moesaic.spec.resource_model import shares, target_resources

if TYPE_CHECKING:
    from moesaic.compiler.estimate.targets import TargetEstimate

ASSUMED_CLOCK_MHZ = 300.0
"""Of ``estimate``. No place and route has run."""


def read_targets(names: str) -> list[ArchConfig]:
    """``all`` presets, or presets and .json files with commas between.

    Raises
    ------
    UserError
        A name is no target, or stands there twice.
    """
    if names == "all":
        return list(PRESETS.values())
    archs = [load_arch(name) for name in names.split(",")]
    known = [arch.name for arch in archs]
    if twice := [name for name in known if known.count(name) > 1]:
        raise UserError(f"--targets names {twice[0]} twice; give each target a name of its own")
    return archs


def targets_report(
    results: Iterable[TargetEstimate], clock_mhz: float | None, bandwidth: float
) -> dict[str, Any]:
    """Cycles, times, bandwidths and resources of each target, for JSON and tables."""
    clock = clock_mhz or ASSUMED_CLOCK_MHZ
    return {
        "clock_mhz": clock,
        "clock_assumed": clock_mhz is None,
        "targets": [_target(result, clock, bandwidth) for result in results],
    }


def _target(result: TargetEstimate, clock: float, bandwidth: float) -> dict[str, Any]:
    arch = result.arch
    name = known_part(arch.device)
    family = PARTS[name].family if name else "xcup"
    counted = target_resources(arch, family)
    return {
        "target": arch.name,
        "fits": result.fits,
        "reason": result.reason,
        "part": name,
        "family": family,
        "resources": counted,
        "share": shares(counted, PARTS[name]) if name else None,
        "dram_given_gb_s": _gb_s(arch.line_bytes + arch.data_port_bytes, 1, clock) * bandwidth,
        "tasks": {
            task: {
                "cycles": found.cycles,
                "ms": found.cycles / clock / 1e3,
                "frames_per_s": clock * 1e6 / found.cycles,
                "utilisation": found.utilisation,
                "dram_needed_gb_s": _gb_s(
                    found.weight_bytes + found.data_bytes, found.cycles, clock
                ),
            }
            for task, found in result.tasks.items()
        },
    }


def _gb_s(size: int, cycles: int, clock_mhz: float) -> float:
    """10**9 bytes per second."""
    return size / cycles * clock_mhz / 1e3


def targets_table(report: dict[str, Any]) -> Table:
    """Targets side by side, a row for each task."""
    clock = f"{report['clock_mhz']:g} MHz"
    table = Table(
        title=f"at {clock}, {'assumed' if report['clock_assumed'] else 'as given'}", box=box.SIMPLE
    )
    table.add_column("target", overflow="fold")
    table.add_column("task")
    for column in ("cycles", "ms", "frames/s", "GB/s", "DSP", "RAM", "LUT"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in report["targets"]:
        kinds = ("dsp", ram_kind(entry["family"]), "lut")
        size = [_amount(entry, kind) for kind in kinds]
        if not entry["fits"]:
            table.add_row(entry["target"], "no fit", *[""] * 4, *size)
        for number, (task, found) in enumerate(entry["tasks"].items()):
            table.add_row(
                "" if number else entry["target"],
                Text(task),
                f"{found['cycles']:,}",
                f"{found['ms']:.3g}",
                f"{found['frames_per_s']:,.0f}",
                f"{found['dram_needed_gb_s']:.1f}/{entry['dram_given_gb_s']:.0f}",
                *(["", "", ""] if number else size),
            )
    parts = sorted({entry["part"] for entry in report["targets"]} - {None})
    table.caption = (
        "GB/s: what a frame needs in the mean, and what the target's ports sustain. DSP, block RAM,"
        f" LUT by model: shares of {' and '.join(parts)}, numbers where no part is known"
    )
    return table


def refusals(report: dict[str, Any]) -> list[str]:
    """A line for each target that does not fit."""
    return [
        f"{entry['target']} does not fit: {entry['reason']}"
        for entry in report["targets"]
        if not entry["fits"]
    ]


def _amount(entry: dict[str, Any], kind: str) -> str:
    """The share of the part, or the number where the part is not known."""
    if entry["share"]:
        return f"{entry['share'][kind]:.0%}"
    return f"{entry['resources'][kind]:,.0f}"
