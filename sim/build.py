"""The simulator of an architecture: ``python -m moesaic.sim.build --target nano``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import get_args

from moesaic.hw.generate import cached_verilog
from moesaic.sim.library import TraceFormat, build_library
from moesaic.sim.progress import progress
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.presets import load_arch


def accelerator_verilog(arch: ArchConfig) -> str:
    """Verilog of the accelerator, generated once per architecture and state of the sources."""
    return cached_verilog(arch, lambda: progress(f"Generating the Verilog of {arch.name}", 1))


def simulator_library(arch: ArchConfig, *, trace: TraceFormat | None = None) -> Path:
    """The shared library that simulates ``arch``, for :class:`moesaic.sim.device.SimDevice`."""
    return build_library(accelerator_verilog(arch), trace=trace)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.sim.build", description=__doc__)
    parser.add_argument("--target", default="nano", help="preset, or a .json file of ArchConfig")
    parser.add_argument("--trace", choices=get_args(TraceFormat), help="can write that; slower")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        library = simulator_library(load_arch(options.target), trace=options.trace)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{library} ({time.monotonic() - started:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
