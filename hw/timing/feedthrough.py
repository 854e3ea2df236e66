"""List what feeds through units: ``python -m moesaic.hw.timing.feedthrough --target nano``.

Whatever a unit takes from another shall end in a register, and whatever it gives begin in one. This
lists, on the elaborated design, every output of a unit that depends on an input of it at
once, as ``unit: input[bits] -> output[bits]``, and paths through three units or more. Exits with 1
if one is not in :mod:`moesaic.hw.timing.allowed`. Takes seconds; the result is kept by content.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from moesaic.hw.timing.allowed import ALLOWED, unlisted
from moesaic.hw.timing.analysis import LoopError
from moesaic.hw.timing.chains import Chain, chains
from moesaic.hw.timing.elaborated import Elaborated, no_collector
from moesaic.hw.timing.units import Feedthrough, Units
from moesaic.hw.top import Accelerator
from moesaic.spec.arch import ArchConfig
from moesaic.spec.cache import cached, content_key, sources
from moesaic.spec.errors import UserError
from moesaic.spec.presets import load_arch

_COMPOSED = ("core",)
"""Modules of the top that are no unit but contain units."""


@dataclass(frozen=True)
class Report:
    """Feed-throughs of a target and paths through three units or more."""

    feedthroughs: list[Feedthrough]
    chains: list[Chain]


def unit_paths(modules: Iterable[str]) -> dict[str, str]:
    """Path of each unit of the accelerator, by name: what is in the top, and in the core."""
    paths = {}
    for module in modules:
        within, _, name = module.rpartition(".")
        if name and module not in _COMPOSED and within in ("", *_COMPOSED):
            paths[name] = module
    return paths


def report(arch: ArchConfig) -> Report:
    """Analyse a target; once for each content.

    Raises
    ------
    LoopError
        The design has a combinational loop.
    """
    made_of = sources("moesaic.hw", "moesaic.spec", without=("resources", "vivado"))
    arch_text = json.dumps(arch.to_dict(), sort_keys=True)
    key = content_key([metadata.version("amaranth"), arch_text, *made_of])

    def build(folder: Path) -> None:
        with no_collector():
            design = Elaborated(Accelerator(arch))
            units = Units(design, unit_paths(design.modules))
            found = [asdict(each) for each in units.feedthroughs()]
            text = json.dumps({"feedthroughs": found, "chains": chains(units)})
        (folder / "report.json").write_text(text, encoding="utf-8")

    text = (cached("feedthrough", key, build) / "report.json").read_text(encoding="utf-8")
    read = json.loads(text)
    found = [Feedthrough(**each) for each in read["feedthroughs"]]
    return Report(found, [tuple(chain) for chain in read["chains"]])


def ranges(bits: Iterable[int]) -> str:
    """Bits from high to low, runs together: ``7:4,0``."""
    runs: list[list[int]] = []
    for bit in sorted(bits, reverse=True):
        if runs and runs[-1][1] == bit + 1:
            runs[-1][1] = bit
        else:
            runs.append([bit, bit])
    return ",".join(f"{high}:{low}" if high > low else f"{high}" for high, low in runs)


def listed(each: Feedthrough) -> str:
    """A feed-through as a line."""
    source = f"{each.input}[{ranges(each.input_bits)}]"
    return f"{each.unit}: {source} -> {each.output}[{ranges(each.output_bits)}]"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m moesaic.hw.timing.feedthrough", description=__doc__
    )
    parser.add_argument("--target", required=True, help="a preset, or a .json file")
    parser.add_argument("--paths", action="store_true", help="show a way through each, with lines")
    options = parser.parse_args(arguments)
    try:
        arch = load_arch(options.target)
        found = report(arch)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except LoopError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for each in found.feedthroughs:
        print(listed(each))
        for step in each.steps if options.paths else ():
            print(f"    {step}")
    for chain in found.chains:
        print(" => ".join(chain).removeprefix(" => "))
    names = [each.name for each in found.feedthroughs]
    print(
        f"{arch.name}: {len(names)} feed-throughs,"
        f" {len(found.chains)} paths through three units or more"
    )
    wrong = unlisted(names, ALLOWED)
    for name in wrong:
        print(f"error: {name} is not allowed: a register belongs between them", file=sys.stderr)
    if not wrong:
        print("all of them are allowed, for the reasons in hw/timing/allowed.py")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
