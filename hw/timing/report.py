"""Timing of a whole target: block by block, from block to block, and the longest paths."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from moesaic.hw.generate import cached_verilog
from moesaic.hw.resources.report import target_blocks
from moesaic.hw.timing.analysis import Analysis, analyse
from moesaic.hw.timing.design import link
from moesaic.hw.timing.netlist import Netlist
from moesaic.hw.timing.paths import PathEnds, TimingPath, find_ends, trace, worst
from moesaic.hw.timing.synthesis import netlists
from moesaic.spec.arch import ArchConfig
from moesaic.spec.cache import cached, content_key, sources

PLACEMENT_SHARE = 0.25
"""Part of the clock's period that is left for what only placement shows."""
MOST_PATHS = 20


def budget(clock_mhz: float) -> float:
    """Longest path that a clock allows, in ns."""
    return 1000 / clock_mhz * (1 - PLACEMENT_SHARE)


def _kind(path: str) -> str:
    """A block's path without numbers: equal blocks have one row."""
    return re.sub(r"[_$]?\d+$", "", path) or "top"


def report(
    arch: ArchConfig, family: str, clock_mhz: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Analyse a target; once for each content.

    Returns
    -------
    dict
        ``target``, ``family``, ``clock_mhz``, ``budget_ns``; ``worst_ns`` and ``mhz`` that leave
        :data:`PLACEMENT_SHARE`; ``ends``, how many are captured, ``over`` how many too late;
        ``blocks``: each alone; ``across``: longest from block to block; ``paths``: the longest,
        step by step; ``slack``: histogram of what is left at every end, in ns.

    Raises
    ------
    SynthesisError, UnknownCellError
        yosys failed.
    LoopError
        The design has a combinational loop.
    """
    parts = [cached_verilog(arch), family, f"{clock_mhz:g}"]
    key = content_key([*parts, *sources("moesaic.hw.timing", "moesaic.hw.resources")])

    def build(folder: Path) -> None:
        text = json.dumps(_report(arch, family, clock_mhz, progress))
        (folder / "report.json").write_text(text, encoding="utf-8")

    made = cached("timing-report", key, build) / "report.json"
    result: dict[str, Any] = json.loads(made.read_text(encoding="utf-8"))
    return result | {"target": arch.name}  # the name is no part of the Verilog


def _report(
    arch: ArchConfig, family: str, clock_mhz: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    blocks = target_blocks(arch)
    found = netlists(blocks, family, progress)
    progress("the whole design")
    whole = analyse(link(found, "top"))
    limit = budget(clock_mhz)
    longest = float(whole.total.max())
    ends = find_ends(whole)
    paths = list(worst(whole, ends, np.arange(len(whole.total), dtype=np.int32), MOST_PATHS))
    counts, edges = np.histogram(limit - whole.total[np.isfinite(whole.total)], bins=60)
    return {
        "family": family,
        "clock_mhz": clock_mhz,
        "budget_ns": limit,
        "worst_ns": longest,
        "mhz": 1000 / longest * (1 - PLACEMENT_SHARE),
        "ends": int(np.isfinite(whole.total).sum()),
        "over": int((whole.total > limit).sum()),
        "blocks": [_alone(block.name, found, block.top, limit) for block in blocks],
        "across": _across(whole, ends),
        "paths": [_path(path) for path in paths],
        "slack": {"edges": edges.tolist(), "ends": counts.tolist()},
    }


def _alone(name: str, found: dict[str, Netlist], top: str, limit: float) -> dict[str, Any]:
    """A block between its own registers."""
    analysis = analyse(link({top: found[top]}, top, ports=False))
    total = analysis.total[np.isfinite(analysis.total)]
    if not len(total):
        return {"block": name, "ns": 0.0, "ends": 0, "over": 0, "path": None}
    captures = np.flatnonzero(np.isfinite(analysis.total)).astype(np.int32)
    (path,) = worst(analysis, find_ends(analysis), captures, 1)
    return {
        "block": name,
        "ns": float(total.max()),
        "ends": len(total),
        "over": int((total > limit).sum()),
        "path": _path(path),
    }


def _across(analysis: Analysis, ends: PathEnds) -> list[dict[str, Any]]:
    """From block to block, or through another: the longest path and how many there are."""
    kinds = [_kind(path) for path in analysis.design.blocks]
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    number = np.array([numbers[kind] for kind in kinds])
    at = np.flatnonzero(~ends.within & (ends.start >= 0))
    pair = number[ends.start_block[at]] * len(numbers) + number[ends.end_block[at]]
    rows = []
    names = list(numbers)
    for value in np.unique(pair).tolist():
        mine = at[pair == value]
        first = mine[np.argmax(analysis.total[mine])]
        path = trace(analysis, int(first))
        rows.append(
            {
                "from": names[value // len(numbers)],
                "to": names[value % len(numbers)],
                "ns": float(analysis.total[first]),
                "ends": len(mine),
                "path": _path(path),
            }
        )
    return sorted(rows, key=lambda row: -row["ns"])


def _path(path: TimingPath) -> dict[str, Any]:
    return {
        "ns": path.total,
        "levels": path.levels,
        "carries": path.carries,
        "alike": path.alike,
        "end": path.end.name.lower(),
        "end_name": path.end_name,
        "end_block": path.end_block,
        "steps": [{**asdict(step), "kind": step.kind.name.lower()} for step in path.steps],
    }
