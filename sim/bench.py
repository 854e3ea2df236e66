"""How fast a target is simulated: ``python -m moesaic.sim.bench --target nano [--bundle DIR]``.

Without a bundle the clock runs and nothing else does: the cost of a cycle. With one, every task
runs the bundle's own samples, and the cycles of each frame are printed too.
"""

from __future__ import annotations

import argparse
import sys
import time

from rich.console import Console
from rich.table import Table

from moesaic.host.session import Session
from moesaic.sim.build import simulator_library
from moesaic.sim.device import SimDevice
from moesaic.spec.arch import ArchConfig, load_arch
from moesaic.spec.bundle import Bundle, load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.hostside import quantise_input

_IDLE_CYCLES = 200_000


def idle_rate(arch: ArchConfig) -> float:
    """Cycles per second of an accelerator that was never started."""
    with SimDevice(simulator_library(arch)) as device:
        started = time.perf_counter()
        device.step(_IDLE_CYCLES)
        return _IDLE_CYCLES / (time.perf_counter() - started)


def frame_rates(bundle: Bundle) -> list[tuple[str, int, float]]:
    """(task, cycles, simulated cycles per second) of every sample in the bundle."""
    rows = []
    with Session(bundle, ["sim"]) as session:
        for task, graph in bundle.graphs.items():
            for sample in bundle.samples[f"{task}.input"]:
                patches = quantise_input(graph, sample[None])
                started = time.perf_counter()
                result = session.device.run(task, patches)
                cycles = result.counters[0]["CYCLES"]
                rows.append((task, cycles, cycles / (time.perf_counter() - started)))
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.sim.bench", description=__doc__)
    parser.add_argument("--target", default="nano", help="preset, or a .json file of ArchConfig")
    parser.add_argument("--bundle", help="run this bundle's samples on its own target")
    options = parser.parse_args(arguments)
    table = Table("run", "cycles", "cycles/s")
    try:
        bundle = load_bundle(options.bundle) if options.bundle else None
        arch = bundle.arch if bundle else load_arch(options.target)
        table.add_row(f"{arch.name}, idle", f"{_IDLE_CYCLES:,}", f"{idle_rate(arch):,.0f}")
        for task, cycles, rate in frame_rates(bundle) if bundle else []:
            table.add_row(f"{arch.name}, {task}", f"{cycles:,}", f"{rate:,.0f}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
