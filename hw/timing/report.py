"""Timing of a whole target: block by block, from block to block, and the longest paths."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.table import Table

from moesaic.hw.resources.report import target_blocks
from moesaic.hw.timing.analysis import Analysis, analyse
from moesaic.hw.timing.design import link
from moesaic.hw.timing.netlist import Netlist
from moesaic.hw.timing.paths import Path, find_ends, worst
from moesaic.hw.timing.synthesis import netlists
from moesaic.spec.arch import ArchConfig

PLACEMENT_SHARE = 0.25
"""Part of the clock's period that is left for what only placement shows."""
MOST_PATHS = 20


def budget(clock_mhz: float) -> float:
    """Longest path that a clock allows, in ns."""
    return 1000 / clock_mhz * (1 - PLACEMENT_SHARE)


def _kind(path: str) -> str:
    """A block's path without numbers: equal blocks have one row."""
    return re.sub(r"_?\d+$", "", path) or "top"


def report(
    arch: ArchConfig, family: str, clock_mhz: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Analyse a target.

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
    blocks = target_blocks(arch)
    found = netlists(blocks, family, progress)
    progress("the whole design")
    whole = analyse(link(found, "top"))
    limit = budget(clock_mhz)
    longest = float(whole.total.max())
    paths = list(worst(whole, np.arange(len(whole.total), dtype=np.int32), MOST_PATHS))
    counts, edges = np.histogram(limit - whole.total[np.isfinite(whole.total)], bins=60)
    return {
        "target": arch.name,
        "family": family,
        "clock_mhz": clock_mhz,
        "budget_ns": limit,
        "worst_ns": longest,
        "mhz": 1000 / longest * (1 - PLACEMENT_SHARE),
        "ends": int(np.isfinite(whole.total).sum()),
        "over": int((whole.total > limit).sum()),
        "blocks": [_alone(block.name, found, block.top, limit) for block in blocks],
        "across": _across(whole),
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
    (path,) = worst(analysis, captures, 1)
    return {
        "block": name,
        "ns": float(total.max()),
        "ends": len(total),
        "over": int((total > limit).sum()),
        "path": _path(path),
    }


def _across(analysis: Analysis) -> list[dict[str, Any]]:
    """From block to block, or through another: the longest path and how many there are."""
    ends = find_ends(analysis)
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
        (path,) = worst(analysis, np.array([first], np.int32), 1)
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


def _path(path: Path) -> dict[str, Any]:
    return {
        "ns": path.total,
        "levels": path.levels,
        "carries": path.carries,
        "alike": path.alike,
        "end": path.end.name.lower(),
        "end_block": path.end_block,
        "steps": [{**asdict(step), "kind": step.kind.name.lower()} for step in path.steps],
    }


def outline(path: dict[str, Any]) -> str:
    """A path by the gateware's names, in order; its end has the name of the block only."""
    names: list[str] = []
    for step in path["steps"]:
        name = step["name"]
        if name and (not names or names[-1] != name):
            names.append(name)
    return " -> ".join([*names, f"{path['end'].replace('_', ' ')} in {path['end_block'] or 'top'}"])


def tables(result: dict[str, Any], most: int = 12) -> list[Table]:
    """Blocks alone, from block to block, and the longest paths."""
    numbers = ("ns", "LUTs", "carries", "ends")
    alone = _table("each block between its own registers", ("block",), (*numbers, "too late"))
    for row in sorted(result["blocks"], key=lambda row: -row["ns"]):
        if row["path"]:
            alone.add_row(row["block"], *_cells(row), f"{row['over']:,}")
    across = _table("from block to block", ("from", "to"), numbers)
    for row in result["across"][:most]:
        across.add_row(row["from"], row["to"], *_cells(row))
    return [alone, across]


def _table(title: str, names: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for name in names:
        table.add_column(name)
    for number in numbers:
        table.add_column(number, justify="right")
    return table


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    path = row["path"]
    return f"{row['ns']:.2f}", str(path["levels"]), str(path["carries"]), f"{row['ends']:,}"


def listing(result: dict[str, Any], most: int = 8) -> list[str]:
    """The longest paths, a line each."""
    return [
        f"{path['ns']:.2f} ns, {path['levels']} LUTs, {path['carries']} carries: {outline(path)}"
        for path in result["paths"][:most]
    ]
