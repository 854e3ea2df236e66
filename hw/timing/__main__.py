"""Analyse a target's timing: ``python -m moesaic.hw.timing --target zcu102``.

Writes ``build/timing/TARGET.json`` and ``.png``, and exits with 1 if a path is longer than the
clock allows. A synthesis takes seconds to minutes per block; netlists and reports are kept, so
the next one is quick.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from moesaic.hw.resources.report import write_report
from moesaic.hw.resources.synthesis import SynthesisError
from moesaic.hw.timing.analysis import LoopError
from moesaic.hw.timing.reader import UnknownCellError
from moesaic.hw.timing.report import report
from moesaic.hw.timing.view import draw, listing, outline, tables
from moesaic.spec.errors import UserError
from moesaic.spec.parts import ASSUMED_CLOCK_MHZ, family_of
from moesaic.spec.presets import load_arch


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.hw.timing", description=__doc__)
    parser.add_argument("--target", required=True, help="a preset, or a .json file")
    parser.add_argument("--clock", type=float, metavar="MHZ", help="by default the family's")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/timing"))
    options = parser.parse_args(arguments)
    notes, console = Console(stderr=True), Console()
    family = "xcup"
    try:
        arch = load_arch(options.target)
        clock = ASSUMED_CLOCK_MHZ[family] if options.clock is None else options.clock
        if not 1 <= clock <= 2000:
            raise UserError(f"--clock must be from 1 to 2000 MHz, not {clock:g}")
        if family_of(arch.device) != family:
            raise UserError(
                f"target {arch.name} is for {arch.device}, and delays are known for UltraScale+"
                " only: name a part of that family in its field device, or none"
            )
        result = report(arch, family, clock, lambda what: notes.print(f"  {what}"))
        text = json.dumps(result, indent=1) + "\n"
        write_report(options.output / f"{arch.name}.json", text.encode())
        write_report(options.output / f"{arch.name}.png", draw(result))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (SynthesisError, UnknownCellError, LoopError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for table in tables(result):
        console.print(table)
    lines = [
        *listing(result),
        f"{result['target']}, {family}: longest path {result['worst_ns']:.2f} ns, or"
        f" {result['mhz']:.0f} MHz with a quarter of the period left for placement;"
        f" {result['over']:,} of {result['ends']:,} ends later than {result['budget_ns']:.2f} ns",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if result["over"]:
        first = result["paths"][0]
        print(
            f"error: {arch.name} does not reach {clock:g} MHz: {first['ns']:.2f} ns from"
            f" {outline(first)}, where {result['budget_ns']:.2f} are allowed",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
