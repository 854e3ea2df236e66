"""Write a project for Vivado: ``python -m moesaic.hw.vivado --target zcu102 -o FOLDER``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from moesaic.hw.vivado.project import project_files, write_project
from moesaic.spec.boards import board_of
from moesaic.spec.clocks import find_clock
from moesaic.spec.errors import UserError
from moesaic.spec.presets import load_arch


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.hw.vivado", description=__doc__)
    parser.add_argument("--target", required=True, help="a preset, or a .json file")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder to write to")
    parser.add_argument("--board", help="otherwise the one that has the target's part")
    parser.add_argument("--clock", type=int, metavar="MHZ", help="otherwise the board's, cautious")
    options = parser.parse_args(arguments)
    try:
        arch = load_arch(options.target)
        board = board_of(arch, options.board)
        clock_mhz = board.clock_mhz if options.clock is None else options.clock
        files = project_files(arch, board, clock_mhz)
        supported = find_clock(arch)
        if clock_mhz > supported.mhz:
            print(
                f"warning: {clock_mhz} MHz are more than the {supported} of {arch.name}: Vivado"
                " will hardly meet them",
                file=sys.stderr,
            )
        for path in write_project(files, options.output):
            print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("NOT RUN THROUGH VIVADO: README.md there says how to run it, and what is not known")
    return 0


if __name__ == "__main__":
    sys.exit(main())
