"""The check that matters: gateware against integer reference, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesaic.host.accelerator import Accelerator
from moesaic.host.pool import Device
from moesaic.host.session import Session
from moesaic.sim.dram import PortStatistics
from moesaic.sim.profile import Profile
from moesaic.sim.provider import SimulatedAccelerator
from moesaic.sim.statistics import frame_statistics
from moesaic.spec.bundle import Bundle
from moesaic.spec.contents import float_part
from moesaic.spec.hostpart import task_outputs
from moesaic.spec.hostside import quantise_input
from moesaic.spec.intgraph import InputCodes, IntGraph
from moesaic.spec.joint import split_codes
from moesaic.spec.metrics import sqnr_db

Seen = tuple[list[dict[str, PortStatistics]], list[Profile], list[float]]
"""Port statistics, profile and seconds of every frame."""


@dataclass(frozen=True)
class TaskVerdict:
    """Result of one task.

    ``differing_codes`` counts codes that differ between device and integer reference,
    ``stale_codes`` those that differ between the reference now and what the compiler stored.
    """

    task: str
    """Or the name of a program that computes several tasks or frames."""
    frames: int
    codes: int
    differing_codes: int
    stale_codes: int
    first_difference: str
    sqnr_db: float
    """Of the worst output."""
    cycles: list[int]
    statistics: dict[str, Any] | None
    """As ``frame_statistics``, if the device is the profiled simulator."""

    @property
    def bit_exact(self) -> bool:
        return self.differing_codes == 0 and self.stale_codes == 0 and self.codes > 0


def verify(
    bundle: Bundle,
    device: Device,
    samples: int | None = None,
    tasks: Sequence[str] | None = None,
) -> list[TaskVerdict]:
    """Run the bundle's samples on ``device``, tasks taking turns frame by frame.

    Turns show state that leaks from one frame or task into the next. By default all ``tasks``.
    Then the programs that compute several of them, or several frames, run twice each, where the
    device runs programs.
    """
    with Session(bundle, ["cpu"]) as reference:
        codes: dict[str, list[np.ndarray]] = {task: [] for task in bundle.tasks}
        counters: dict[str, list[dict[str, int]]] = {task: [] for task in bundle.tasks}
        seen: dict[str, Seen] = {task: ([], [], []) for task in bundle.tasks}
        inputs = {
            task: quantise_input(graph, bundle.sample(task, "input")[:samples])
            for task, graph in bundle.graphs.items()
            if tasks is None or task in tasks
        }
        for frame in range(max(len(rows) for rows in inputs.values())):
            for task, rows in inputs.items():
                if frame < len(rows):
                    result = device.run(task, rows[frame : frame + 1])
                    codes[task].append(result.codes[0])
                    counters[task] += result.counters
                    if isinstance(device, SimulatedAccelerator):
                        seen[task][0].extend(device.dram)
                        seen[task][1].extend(device.profiles)
                        seen[task][2].extend(device.seconds)
        verdicts = [
            _judge(
                bundle,
                task,
                np.stack(codes[task]),
                counters[task],
                seen[task],
                reference.device.run(task, rows).codes,
            )
            for task, rows in inputs.items()
        ]
        if isinstance(device, Accelerator):
            for name, entry in bundle.joint.items():
                if set(entry.tasks) <= set(inputs):
                    rows = inputs[entry.tasks[0]]
                    verdicts.append(_judge_joint(device, reference.device, name, rows, verdicts))
        return verdicts


def _judge_joint(
    device: Accelerator,
    reference: Device,
    name: str,
    rows: InputCodes,
    verdicts: Sequence[TaskVerdict],
) -> TaskVerdict:
    """Run a program on samples [samples, patches, inputs], over and over if they are too few."""
    bundle = device.driver.bundle
    entry = bundle.joint[name]
    graphs = [bundle.graphs[task] for task in entry.tasks]
    differing, first, cycles = 0, "", []
    for number in range(2):
        which = np.arange(number, number + entry.frames) % len(rows)
        result = device.run_program(name, rows[which])
        cycles.append(result.counters["CYCLES"])
        parts = split_codes(graphs, entry.frames, result.codes)
        for graph, got in zip(graphs, parts, strict=True):
            expected = reference.run(graph.task, rows[which]).codes
            different = int((got != expected).sum())
            if different and not first:
                first = f"task {graph.task}, {_first_difference(graph, got, expected)}"
            differing += different
    worst = min(verdict.sqnr_db for verdict in verdicts if verdict.task in entry.tasks)
    count = 2 * entry.frames
    codes = count * sum(graph.codes for graph in graphs)
    return TaskVerdict(name, count, codes, differing, 0, first, worst, cycles, None)


def _judge(
    bundle: Bundle,
    task: str,
    got: np.ndarray,
    counters: list[dict[str, int]],
    seen: Seen,
    expected: np.ndarray,
) -> TaskVerdict:
    stored = bundle.sample(task, "codes")[: len(got)]
    different = np.argwhere(got != expected)
    first = ""
    if len(different):
        first = _first_difference(bundle.graphs[task], got, expected)
    # Codes are compared where the accelerator delivers them, the float model at the task's end.
    outputs = task_outputs(bundle.graphs[task], expected, bundle.host_part(task))
    worst = min(
        sqnr_db(bundle.sample(task, float_part(number))[: len(got)], output)
        for number, output in enumerate(outputs.values())
    )
    return TaskVerdict(
        task,
        len(got),
        int(got.size),
        len(different),
        int((stored != expected).sum()),
        first,
        worst,
        [counter["CYCLES"] for counter in counters],
        frame_statistics(bundle, task, counters, *seen) if seen[1] else None,
    )


def _first_difference(graph: IntGraph, got: np.ndarray, expected: np.ndarray) -> str:
    """Say where the first output that differs does so first."""
    parts = zip(graph.heads, graph.split_codes(got), graph.split_codes(expected), strict=True)
    for head, mine, wanted in parts:
        different = np.argwhere(mine != wanted)
        if len(different):
            where = tuple(int(i) for i in different[0])
            name = f"output {head.name!r}, " if len(graph.heads) > 1 else ""
            values = f"{int(mine[where])} instead of {int(wanted[where])}"
            return f"{name}frame, row, column {where}: {values}"
    return ""


def verdicts_to_dict(verdicts: list[TaskVerdict]) -> dict[str, Any]:
    """JSON form: ``bit_exact`` over all tasks and the figures of each."""
    return {
        "bit_exact": all(v.bit_exact for v in verdicts),
        "tasks": {
            v.task: {
                "bit_exact": v.bit_exact,
                "frames": v.frames,
                "codes": v.codes,
                "differing_codes": v.differing_codes,
                "stale_codes": v.stale_codes,
                "first_difference": v.first_difference,
                "sqnr_db": v.sqnr_db,
                "cycles": v.cycles,
            }
            for v in verdicts
        },
    }
