"""Resources of a whole target: blocks, totals, and the part's share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.table import Table

from moesaic.hw.generate import cached_verilog
from moesaic.hw.resources.hierarchy import Block, cut
from moesaic.hw.resources.synthesis import synthesise
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.parts import FAMILIES, PARTS, find_part
from moesaic.spec.resource_model import blocks_of

PATTERNS = [
    "control",
    r"core\.stream",
    r"core\.matrix\.array\.columns\d+",
    r"core\.matrix\.array",
    r"core\.matrix\.accumulate",
    r"core\.matrix",
    r"core\.vector\.lanes",
    r"core\.vector\.operands",
    r"core\.vector\.statistics",
    r"core\.vector\.upper_lanes",
    r"core\.vector",
    r"core\.router",
    r"core\.load",
    r"core\.store",
    r"core\.scratchpad",
]
"""Where the design is cut. What is left (the port arbiter, wires) is the block ``top``."""


def block_of(pattern: str) -> str:
    """Name of the block that a pattern's modules are, as the resource model has it."""
    return re.sub(r"\\d\+|\\", "", pattern)


def target_blocks(arch: ArchConfig) -> list[Block]:
    """The blocks of an accelerator."""
    there = blocks_of(arch)
    patterns = [pattern for pattern in PATTERNS if block_of(pattern) in there]
    return cut(cached_verilog(arch), "top", patterns)


def report(
    arch: ArchConfig,
    families: list[str],
    progress: Callable[[str, str], None] = lambda family, block: None,
) -> dict[str, Any]:
    """Synthesise a target for some families.

    Returns
    -------
    dict
        ``target``, ``arch_hash`` and ``families``: for each, ``part``, ``capacity``, ``blocks``
        (name, count, and the resources of all of them), ``totals`` and ``share`` of the part.
    """
    blocks = target_blocks(arch)
    result: dict[str, Any] = {"target": arch.name, "arch_hash": f"0x{arch.hash:08x}"}
    result["families"] = {}
    for family in families:

        def one(block: Block, family: str = family) -> dict[str, Any]:
            progress(family, block.name)
            each = synthesise(block, family)
            whole = {kind: number * block.count for kind, number in each.items()}
            return {"block": block.name, "count": block.count, **whole}

        # The largest first, two at a time: yosys uses one core.
        order = sorted(blocks, key=lambda block: -len(block.verilog))
        with ThreadPoolExecutor(2) as pool:
            rows = list(pool.map(one, order))
        part = find_part(arch.device, family)
        capacity = PARTS[part].capacity
        totals = {kind: sum(row[kind] for row in rows) for kind in FAMILIES[family]}
        result["families"][family] = {
            "part": part,
            "capacity": capacity,
            "blocks": sorted(rows, key=lambda row: -row["lut"]),
            "totals": totals,
            "share": {
                kind: totals[kind] / capacity[kind] if capacity[kind] else None for kind in totals
            },
        }
    return result


def table(result: dict[str, Any], family: str) -> Table:
    """One family as a table."""
    found = result["families"][family]
    kinds = FAMILIES[family]
    view = Table(title=f"{result['target']} by yosys, {family}; shares of {found['part']}")
    view.add_column("block")
    for kind in ("count", *kinds):
        view.add_column(kind, justify="right")
    for row in found["blocks"]:
        view.add_row(row["block"], *(f"{row[kind]:,.10g}" for kind in ("count", *kinds)))
    view.add_section()
    view.add_row("total", "", *(f"{found['totals'][kind]:,.10g}" for kind in kinds))
    shares = [found["share"][kind] for kind in kinds]
    view.add_row("share", "", *("-" if share is None else f"{share:.1%}" for share in shares))
    return view


def write_report(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it.

    Raises
    ------
    UserError
        It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
