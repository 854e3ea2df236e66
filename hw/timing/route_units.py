"""The units of an ECP5 target, each placed and routed alone: their clocks and what they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.table import Table

from moesaic.hw.generate import cached_verilog
from moesaic.hw.resources.hierarchy import Block, cut
from moesaic.hw.timing.nextpnr import Device, find_device, route
from moesaic.hw.timing.routed import Routed, read_routed
from moesaic.hw.timing.wrapper import CLOCK, module_ports, output_bits
from moesaic.spec.arch import ArchConfig

CLOCK_MHZ = 90.0
"""What the units are held to if nobody says otherwise."""
SEEDS = 3
"""Placements that are tried of a unit, one after the other until one reaches the clock."""
UNITS = (
    "control", r"core\.load", r"core\.store", r"core\.stream", r"core\.scratchpad",
    r"core\.router", r"core\.vector", r"core\.matrix",
)  # fmt: skip
"""Paths of the units' modules. The arbiter and the wires between them are in none."""


def units(arch: ArchConfig) -> list[Block]:
    """Each unit with all that is in it."""
    return cut(cached_verilog(arch), "top", list(UNITS))[: len(UNITS)]


def report(arch: ArchConfig, clock_mhz: float, progress: Callable[[str], None]) -> dict[str, Any]:
    """Route the units of a target, one after the other; each once for each content and seed.

    Returns
    -------
    dict
        ``target``, ``device``, ``clock_mhz`` and ``units``: as :func:`row`, with ``tried_mhz`` of
        every seed that was tried, the slowest unit first.

    Raises
    ------
    UserError
        ``arch.device`` is no whole part number of an ECP5.
    SynthesisError, RoutingError
        A tool failed.
    """
    device = find_device(arch.device)
    rows = []
    for block in units(arch):
        rows.append(_best(block, device, clock_mhz, progress))
    return {
        "target": arch.name,
        "device": arch.device,
        "clock_mhz": clock_mhz,
        "units": sorted(rows, key=lambda row: row["mhz"]),
    }


def _best(
    block: Block, device: Device, clock_mhz: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The first placement that reaches the clock, or the fastest of :data:`SEEDS`."""
    tried: list[Routed] = []
    for seed in range(1, SEEDS + 1):
        tried.append(read_routed(route(block, device, seed)))
        progress(f"{block.name.removeprefix('core.')}, seed {seed}: {tried[-1].mhz:.1f} MHz")
        if tried[-1].mhz >= clock_mhz:
            break
    best = max(tried, key=lambda routed: routed.mhz)
    return row(block, best) | {"tried_mhz": [routed.mhz for routed in tried]}


def row(block: Block, routed: Routed) -> dict[str, Any]:
    """``unit``, ``mhz``, ``ns``, ``levels``, ``outline``, ``path`` and the resources of a unit.

    The wrapper's LUTs and flip-flops are taken off: a LUT for each output bit but one, two
    flip-flops for each output bit and one for each input bit.
    """
    ports = [port for port in module_ports(block.verilog, block.top) if port.name != CLOCK]
    outputs = output_bits(ports)
    bits = sum(port.width for port in ports)
    used = dict(routed.used)
    used["lut4"] = max(0, used["lut4"] - (outputs - 1))
    used["ff"] = max(0, used["ff"] - outputs - bits)
    return {
        "unit": block.name.removeprefix("core."),
        "mhz": routed.mhz,
        "ns": routed.ns,
        "levels": routed.levels,
        **used,
        "outline": routed.outline,
        "path": [asdict(step) for step in routed.path],
    }


def too_slow(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The units below the clock, the slowest first."""
    return [row for row in result["units"] if row["mhz"] < result["clock_mhz"]]


def listing(result: dict[str, Any]) -> list[str]:
    """The longest path of each unit, a line each."""
    return [f"{row['unit']}, {row['ns']:.2f} ns: {row['outline']}" for row in result["units"]]


def table(result: dict[str, Any]) -> Table:
    """A row for each unit, the slowest first."""
    view = Table(title=f"{result['target']} on {result['device']}: each unit routed alone")
    view.add_column("unit")
    for name in ("MHz", "seeds", "LUT4", "multipliers", "block RAMs"):
        view.add_column(name, justify="right")
    for unit in result["units"]:
        numbers = (f"{unit[name]:,}" for name in ("lut4", "multipliers", "block_rams"))
        tried = len(unit["tried_mhz"])
        view.add_row(unit["unit"], f"{unit['mhz']:.1f}", str(tried), *numbers)
    return view
