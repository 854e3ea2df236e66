"""Count toggles of bundles' frames on the RTL: ``python -m moesaic.sim.toggles BUNDLE ...``.

Windows of cycles, spread over a frame of each task, are counted bit by bit, and compared with what
the recorded rates say of them. With ``--record`` the rates are found anew, from the first task of
the first bundle, and kept in ``spec/toggles.json``, from which :mod:`moesaic.spec.energy` has the
activity of every target.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moesaic.host.driver import Driver
from moesaic.host.platform import TransportPlatform
from moesaic.sim.build import accelerator_verilog, simulator_library
from moesaic.sim.device import SimDevice
from moesaic.sim.profile import interpret
from moesaic.sim.saif import Registers, find_registers, read_toggles
from moesaic.sim.verilator import toolchain
from moesaic.spec.bundle import Bundle, load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.hostside import quantise_input
from moesaic.spec.isa import Unit
from moesaic.spec.toggles import (
    RECORD,
    Rates,
    block_of,
    predicted_toggles,
    recorded_rates,
    unit_of,
)

WINDOWS, WINDOW_CYCLES = 24, 400
_WATCHDOG_CYCLES = 100_000_000


Counted = dict[str, list["Window"]]
"""By target and task."""


@dataclass(frozen=True)
class Window:
    """What happened in some cycles of a frame: ``busy`` ones by unit, ``toggles`` by block."""

    cycles: int
    busy: dict[str, int]
    toggles: dict[str, int]


def register_bits(registers: Registers) -> dict[str, int]:
    """By block."""
    total: dict[str, int] = {}
    for module, own in registers.items():
        block = block_of(module)
        total[block] = total.get(block, 0) + sum(own.values())
    return total


def count_windows(
    bundle: Bundle,
    task: str,
    registers: Registers,
    windows: int = WINDOWS,
    window_cycles: int = WINDOW_CYCLES,
) -> list[Window]:
    """Simulate a frame of a stored sample and count ``windows`` of it, evenly spread.

    Raises
    ------
    UserError
        The frame is too short for them.
    """
    cycles = bundle.report["tasks"][task]["cycles"]
    spacing = cycles // (windows + 1)
    if spacing <= window_cycles + 2:
        raise UserError(
            f"a frame of {task} has about {cycles:,} cycles, too few for {windows} windows of"
            f" {window_cycles}: count fewer"
        )
    counted = []
    library = simulator_library(bundle.arch, trace="saif")
    with SimDevice(library) as device, tempfile.TemporaryDirectory() as folder:
        driver = Driver(TransportPlatform(device), bundle, _WATCHDOG_CYCLES)
        sample = quantise_input(bundle.graphs[task], bundle.sample(task, "input")[:1])
        driver.write_input(task, sample[0])
        device.start_profile()
        driver.submit(task)
        for _ in range(windows):
            device.step(spacing - window_cycles - 2)
            begin = device.profile().cycles + 2
            toggles = count_toggles(device, registers, window_cycles, Path(folder))
            counted.append((begin, toggles))
        driver.wait()
        raw = device.profile()
        labels, experts = bundle.labels(task), bundle.arch.max_experts
        profile = interpret(raw, bundle.programs[task], labels, experts)
        driver.close()
    busy = {}
    for unit in Unit:
        mine = np.zeros(profile.cycles + 1, bool)
        for run in profile.runs(unit):
            mine[run.begin : run.end] = run.state == "busy"
        busy[unit.name.lower()] = mine
    return [
        Window(
            window_cycles,
            {unit: int(mine[begin : begin + window_cycles].sum()) for unit, mine in busy.items()},
            toggles,
        )
        for begin, toggles in counted
    ]


def count_toggles(
    device: SimDevice, registers: Registers, cycles: int, folder: Path
) -> dict[str, int]:
    """Toggles by block in so many of the next ``cycles + 2`` cycles.

    A bit that is 1 at the begin of a file is a toggle there. So the first cycle has a file of its
    own: what is 1 in it is 1 in the next one too, but for the toggles of a cycle.
    """
    found = []
    for name, length in (("first", 1), ("window", cycles + 1)):
        path = folder / f"{name}.saif"
        device.start_trace(path)
        device.step(length)
        device.stop_trace()
        found.append(read_toggles(path, registers, block_of))
    ones, both = found
    return {block: max(0, both[block] - ones[block]) for block in both}


def fit_rates(windows: Sequence[Window], bits: Mapping[str, int]) -> dict[str, Rates]:
    """Rates by block that have the least squares of errors.

    A unit that is idle does not toggle more than one at work, nor less than not at all: where the
    windows say so all the same (they hold few cycles of one kind), the mean is taken for both, or
    all of it for the busy ones.
    """
    cycles = np.array([window.cycles for window in windows], float)
    result = {}
    for block, count in sorted(bits.items()):
        unit = unit_of(block)
        rates = np.array([window.toggles.get(block, 0) for window in windows]) / count
        busy = np.array([window.busy[unit] if unit else 0 for window in windows], float)
        idle = cycles - busy
        both = np.linalg.lstsq(np.stack([busy, idle], 1), rates, rcond=None)[0]
        if not busy.any() or not idle.any() or both[1] > both[0]:
            both = np.full(2, rates.sum() / cycles.sum())
        elif both[1] < 0:
            both = np.array([rates.sum() / busy.sum(), 0.0])
        result[block] = Rates(int(count), round(float(both[0]), 5), round(float(both[1]), 5))
    return result


def compare(
    windows: Sequence[Window], bits: Mapping[str, int], rates: Mapping[str, Rates]
) -> dict[str, Any]:
    """What ``rates`` say of ``windows``, against what was counted.

    Returns
    -------
    dict
        ``toggles`` counted per register bit and cycle, ``error`` of the prediction for all windows
        together, ``window_error``, the mean of each window's without its sign, and ``blocks``, the
        error of each block in toggles, as a share of all.
    """
    counted = np.zeros((len(windows), len(bits)))
    predicted = np.zeros_like(counted)
    for row, window in enumerate(windows):
        says = predicted_toggles(rates, bits, window.busy, window.cycles)
        counted[row] = [window.toggles.get(block, 0) for block in bits]
        predicted[row] = [says[block] for block in bits]
    total, each = counted.sum(), counted.sum(1)
    cycles = sum(window.cycles for window in windows)
    difference = predicted - counted
    return {
        "toggles": round(float(total / sum(bits.values()) / cycles), 5),
        "error": round(float(difference.sum() / total), 4),
        "window_error": round(float(np.abs(difference.sum(1) / each).mean()), 4),
        "blocks": {
            block: round(float(share), 4)
            for block, share in zip(bits, difference.sum(0) / total, strict=True)
        },
    }


def count_bundle(location: str, windows: int, cycles: int) -> tuple[dict[str, int], Counted]:
    """Register bits by block, and the windows of a frame of every task.

    Raises
    ------
    UserError
        There is no such bundle, or its frames are too short.
    """
    bundle = load_bundle(location)
    registers = find_registers(accelerator_verilog(bundle.arch))
    return register_bits(registers), {
        f"{bundle.arch.name}, {task}": count_windows(bundle, task, registers, windows, cycles)
        for task in bundle.tasks
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.sim.toggles", description=__doc__)
    parser.add_argument("bundles", nargs="+", help="what to run, a sample of every task is in it")
    parser.add_argument(
        "--record",
        action="store_true",
        help="keep rates of the first bundle's first task in spec/toggles.json",
    )
    parser.add_argument("--windows", type=int, default=WINDOWS, help="of a frame")
    parser.add_argument("--cycles", type=int, default=WINDOW_CYCLES, help="of a window")
    options = parser.parse_args(arguments)
    try:
        if options.windows < 2 or options.cycles < 2:
            raise UserError("--windows and --cycles must be 2 at the least")
        found = [
            count_bundle(location, options.windows, options.cycles) for location in options.bundles
        ]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    bits, counted = found[0]
    fitted = next(iter(counted))
    rates = fit_rates(counted[fitted], bits) if options.record else recorded_rates()
    checked = {
        name: compare(windows, own, rates)
        for own, frames in found
        for name, windows in frames.items()
    }
    for name, result in checked.items():
        print(
            f"{name}: {result['toggles']:.4f} toggles per register bit and cycle, predicted with an"
            f" error of {result['error']:+.1%}; {result['window_error']:.1%} in the mean of"
            f" {options.windows} windows of {options.cycles} cycles"
        )
    if options.record:
        record = {
            "fitted": fitted,
            "windows": options.windows,
            "window_cycles": options.cycles,
            "made_with": toolchain().identity,
            "checked": checked,
            "blocks": {block: asdict(found) for block, found in rates.items()},
        }
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"recorded the rates of {len(rates)} blocks from {fitted}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
