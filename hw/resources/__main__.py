"""Count a target's resources: ``python -m moesaic.hw.resources --target zcu102``.

Writes ``build/resources/TARGET.json`` and prints a table. A synthesis takes seconds to a minute
per block, minutes for a large target; results are kept, so the next one is quick.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from moesaic.hw.resources.report import report, table, write_report
from moesaic.hw.resources.synthesis import SynthesisError
from moesaic.spec.errors import UserError
from moesaic.spec.parts import FAMILIES
from moesaic.spec.presets import load_arch


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.hw.resources", description=__doc__)
    parser.add_argument("--target", required=True, help="a preset, or a .json file")
    parser.add_argument("--family", action="append", choices=sorted(FAMILIES), help="default: all")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/resources"))
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        arch = load_arch(options.target)
        with console.status(f"generating the Verilog of {arch.name}") as status:
            result = report(
                arch,
                options.family or list(FAMILIES),
                lambda family, block: status.update(f"yosys {family}: {block}"),
            )
        text = json.dumps(result, indent=1) + "\n"
        write_report(options.output / f"{arch.name}.json", text.encode())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except SynthesisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for family in result["families"]:
        Console().print(table(result, family))
    return 0


if __name__ == "__main__":
    sys.exit(main())
