"""What ``moesaic estimate --targets`` shows: targets side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from moesaic.cli.time_view import shared_times
from moesaic.spec.arch import ArchConfig
from moesaic.spec.boards import dram_of
from moesaic.spec.clocks import ASSUMED, RECORDED, Clock, find_clock
from moesaic.spec.errors import UserError
from moesaic.spec.memories import ram_kind
from moesaic.spec.memory import BOARD_SHARE, board_share, sustained_bytes
from moesaic.spec.parts import PARTS, known_part
from moesaic.spec.presets import PRESETS, load_arch
from moesaic.spec.resource_model import shares, target_resources

if TYPE_CHECKING:
    from moesaic.compiler.estimate.targets import TargetEstimate
    from moesaic.compiler.estimate.task import Estimate


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
    """Cycles, times, bandwidths and resources of each target, for JSON and tables.

    ``clock_mhz`` is of all targets; each has its own without.
    """
    return {
        "targets": [
            _target(result, find_clock(result.arch, clock_mhz), bandwidth) for result in results
        ]
    }


def _target(result: TargetEstimate, clock: Clock, bandwidth: float) -> dict[str, Any]:
    arch = result.arch
    name = known_part(arch.device)
    family = PARTS[name].family if name else "xcup"
    counted = target_resources(arch, family)
    dram = dram_of(arch)
    return {
        "target": arch.name,
        "fits": result.fits,
        "reason": result.reason,
        "part": name,
        **clock.to_dict(),
        "family": family,
        "resources": counted,
        "share": shares(counted, PARTS[name]) if name else None,
        "dram_given_gb_s": clock.gigabytes_per_second(sustained_bytes(arch, bandwidth)),
        "board_dram_gb_s": dram.gigabytes_per_second if dram else None,
        "board_share": board_share(arch, dram, clock.mhz) if dram else None,
        "tasks": {
            task: {
                "macs": found.macs,
                "cycles": found.cycles,
                "ms": clock.milliseconds(found.cycles),
                "dram_shares": shared_times(arch, clock, found.cycles_at),
                "frames_per_s": clock.mhz * 1e6 / found.cycles,
                "utilisation": found.utilisation,
                "energy": _energy(arch, clock, found),
                "dram_needed_gb_s": clock.gigabytes_per_second(
                    found.weight_bytes + found.data_bytes, found.cycles
                ),
            }
            for task, found in result.tasks.items()
        },
    }


def _energy(arch: ArchConfig, clock: Clock, found: Estimate) -> dict[str, Any] | None:
    from moesaic.compiler.estimate.energy import estimated_energy

    energy = estimated_energy(arch, clock, found)
    return energy.to_dict() if energy else None


def targets_table(report: dict[str, Any]) -> Table:
    """Targets side by side, a row for each task."""
    clocks = {Clock(one["clock_mhz"], one["clock_source"]) for one in report["targets"]}
    star = "*" if len({clock.source for clock in clocks}) > 1 else ""
    table = Table(title=_title(clocks), box=box.SIMPLE)
    table.add_column("target", overflow="fold")
    table.add_column("task")
    for column in ("cycles", "MHz", "ms", "frames/s", "GB/s", "DSP", "RAM", "LUT"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in report["targets"]:
        kinds = ("dsp", ram_kind(entry["family"]), "lut")
        size = [_amount(entry, kind) for kind in kinds]
        if not entry["fits"]:
            table.add_row(entry["target"], "no fit", *[""] * 5, *size)
        for number, (task, found) in enumerate(entry["tasks"].items()):
            table.add_row(
                "" if number else entry["target"],
                Text(task),
                f"{found['cycles']:,}",
                f"{entry['clock_mhz']:g}{star if entry['clock_source'] == ASSUMED else ''}",
                f"{found['ms']:.3g}",
                f"{found['frames_per_s']:,.0f}",
                f"{found['dram_needed_gb_s']:.1f}/{entry['dram_given_gb_s']:.0f}",
                *(["", "", ""] if number else size),
            )
    parts = sorted({entry["part"] for entry in report["targets"]} - {None})
    table.caption = (
        "GB/s: what a frame moves in the mean, and what its cycles assume of DRAM. DSP, block RAM,"
        f" LUT by model: shares of {' and '.join(parts)}, numbers where no part is known"
    )
    return table


def _title(clocks: set[Clock]) -> str:
    """The clock of all targets, or who says so: one source, or two, of which one has a star."""
    if len(clocks) == 1:
        return f"at {clocks.pop()}"
    sources = {clock.source for clock in clocks}
    return f"clocks {sources.pop()}" if len(sources) == 1 else f"clocks {RECORDED}; * {ASSUMED}"


def beyond_boards(report: dict[str, Any]) -> list[str]:
    """A line for each target whose cycles assume more than its board's DRAM has at its peak."""
    found = []
    for entry in report["targets"]:
        peak, share = entry["board_dram_gb_s"], entry["board_share"]
        if entry["fits"] and peak is not None and entry["dram_given_gb_s"] > peak:
            found.append(
                f"{entry['target']}: its board's DRAM has {peak:.1f} GB/s at its peak, these cycles"
                f" assume {entry['dram_given_gb_s']:.1f}; {BOARD_SHARE:.0%} of that peak is"
                f" --bandwidth {share:.2f}"
            )
    return found


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
