"""How long the accelerator idles between two tasks, measured on the RTL with the real driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from moesaic.sim.provider import SimulatedAccelerator
from moesaic.spec.hostside import quantise_input

_STREAM_LIMIT_CYCLES = 10_000  # by then the first weights must have been asked for


@dataclass(frozen=True)
class Switch:
    """Cycles from the interrupt that ends a frame of ``before`` to what starts one of ``after``.

    ``acknowledged``: the driver has read the cause and cleared it. ``started``: it has written what
    differs between the tasks, and START. ``instruction``, ``weights``: the memory has accepted the
    first read of the program, of weights. The processor's own time to see the interrupt is not in
    it: the simulated one takes none.
    """

    before: str
    after: str
    acknowledged: int
    started: int
    instruction: int
    weights: int


def measure_switches(device: SimulatedAccelerator, tasks: Sequence[str]) -> list[Switch]:
    """Run the tasks one behind the other, each on a stored sample, and time the changes.

    Inputs are in place before, and outputs are read behind, as an application that keeps the
    accelerator busy has it; the driver allows both while another task runs.
    """
    driver, memory = device.driver, device.transport
    for task in set(tasks):
        sample = driver.bundle.sample(task, "input")[:1]
        driver.write_input(task, quantise_input(driver.bundle.graphs[task], sample)[0])
    switches = []
    driver.submit(tasks[0])
    for before, after in pairwise(tasks):
        memory.run(driver.watchdog_cycles)
        end = memory.cycles
        memory.clear_dram_statistics()
        driver.wait()
        acknowledged = memory.cycles
        driver.submit(after)
        started = memory.cycles
        memory.step(_STREAM_LIMIT_CYCLES)
        first = {name: port.first_read_cycle for name, port in memory.dram_statistics().items()}
        weights = [cycle for name, cycle in first.items() if name.startswith("w")]
        marks = (acknowledged, started, first["d"], min(weights))
        switches.append(Switch(before, after, *(mark - end for mark in marks)))
    driver.wait()
    return switches


def switches_to_list(switches: Sequence[Switch]) -> list[dict[str, Any]]:
    """JSON form."""
    return [asdict(switch) for switch in switches]
