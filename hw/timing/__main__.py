"""Analyse a target's timing: ``python -m moesaic.hw.timing --target zcu102``.

Writes ``build/timing/TARGET.json`` and ``.png``, and exits with 1 if a path is longer than the
clock allows. With ``--record`` the clock that was found becomes the one that times of this preset
are printed for (``spec/clocks.json``), and the exit is 1 if a path is longer than its budget there.
A synthesis takes seconds to minutes per block; netlists and reports are kept, so the next one is
quick.

``--route`` is for targets on ECP5: each unit is placed and routed alone by nextpnr, minutes for
each, and ``build/timing/TARGET-routed.json`` written; 1 if a unit is slower than the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from rich.console import Console

from moesaic.hw.resources.report import write_report
from moesaic.hw.resources.synthesis import SynthesisError
from moesaic.hw.timing import route_units
from moesaic.hw.timing.analysis import LoopError
from moesaic.hw.timing.nextpnr import RoutingError, find_device, require_nextpnr
from moesaic.hw.timing.reader import UnknownCellError
from moesaic.hw.timing.record import check_recordable, over_budget, write_record
from moesaic.hw.timing.report import report
from moesaic.hw.timing.view import draw, listing, outline, tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.parts import ASSUMED_CLOCK_MHZ, family_of
from moesaic.spec.presets import load_arch

MODELLED, ROUTED = "xcup", "ecp5"
"""The family whose delays are known, and the one that there is a router for."""


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.hw.timing", description=__doc__)
    parser.add_argument("--target", required=True, help="a preset, or a .json file")
    parser.add_argument(
        "--clock",
        type=float,
        metavar="MHZ",
        help=f"by default the family's, with --route {route_units.CLOCK_MHZ:g}",
    )
    parser.add_argument("--record", action="store_true", help="keep the clock in spec/clocks.json")
    parser.add_argument("--route", action="store_true", help="place and route the units; ECP5")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/timing"))
    options = parser.parse_args(arguments)
    usual = route_units.CLOCK_MHZ if options.route else ASSUMED_CLOCK_MHZ[MODELLED]
    clock = usual if options.clock is None else options.clock
    try:
        arch = load_arch(options.target)
        if not 1 <= clock <= 2000:
            raise UserError(f"--clock must be from 1 to 2000 MHz, not {clock:g}")
        if options.record:
            if options.route:
                raise UserError("--record keeps what the model of delays says: leave out --route")
            check_recordable(arch, options.clock)
        if options.route:
            return _route(arch, clock, options.output)
        return _model(arch, clock, options.output, options.record)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (SynthesisError, UnknownCellError, LoopError, RoutingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _note(text: str) -> None:
    Console(stderr=True).print(f"  {text}", highlight=False)


def _print(lines: list[str]) -> None:
    for line in lines:
        Console().print(line, soft_wrap=True, highlight=False, markup=False)


def _model(arch: ArchConfig, clock: float, output: Path, keep: bool) -> int:
    """The longest paths by the model of delays."""
    family = family_of(arch.device)
    if family != MODELLED:
        way = (
            "put one of its parts, or none, into the field device of a file that `moesaic targets"
            " --show` begins"
        )
        if family == ROUTED:
            way = "`make timing ROUTE=1` (--route) places and routes the units of one for ECP5"
        raise UserError(
            f"target {arch.name} is for {arch.device}, and delays are known for UltraScale+"
            f" only: {way}"
        )
    result = report(arch, family, clock, _note)
    text = json.dumps(result, indent=1) + "\n"
    write_report(output / f"{arch.name}.json", text.encode())
    write_report(output / f"{arch.name}.png", draw(result))
    record = write_record(arch, result) if keep else None
    for table in tables(result):
        Console().print(table)
    summary = (
        f"{result['target']}, {family}: longest path {result['worst_ns']:.2f} ns, or"
        f" {math.floor(result['mhz'])} MHz with a quarter of the period left for placement;"
        f" {result['over']:,} of {result['ends']:,} ends later than {result['budget_ns']:.2f} ns"
    )
    _print([*listing(result), summary])
    if record is not None:
        _print([f"recorded {record['mhz']} MHz for {arch.name}"])
        if message := over_budget(arch.name, record):
            print(f"error: {message}", file=sys.stderr)
        return 1 if message else 0
    if result["over"]:
        first = result["paths"][0]
        print(
            f"error: {arch.name} does not reach {clock:g} MHz: {first['ns']:.2f} ns from"
            f" {outline(first)}, where {result['budget_ns']:.2f} are allowed",
            file=sys.stderr,
        )
        return 1
    return 0


def _route(arch: ArchConfig, clock: float, output: Path) -> int:
    """The units as nextpnr places and routes them."""
    if family_of(arch.device) != ROUTED:
        raise UserError(
            f"target {arch.name} is for {arch.device}, and --route (ROUTE=1) is for ECP5"
            " only: leave it out, or take a target such as ecp5-85"
        )
    find_device(arch.device)
    require_nextpnr()
    result = route_units.report(arch, clock, _note)
    text = json.dumps(result, indent=1) + "\n"
    write_report(output / f"{arch.name}-routed.json", text.encode())
    Console().print(route_units.table(result))
    _print(route_units.listing(result))
    if slow := route_units.too_slow(result):
        names = ", ".join(f"{row['unit']} {row['mhz']:.1f} MHz" for row in slow)
        print(
            f"error: {arch.name} does not reach {clock:g} MHz: {names}; the longest path,"
            f" {slow[0]['ns']:.2f} ns in {slow[0]['unit']}, is {slow[0]['outline']}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
