"""`moesaic simulate`, `verify`: the RTL, cycle by cycle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from moesaic.cli.console import (
    BandwidthOption,
    BundleArgument,
    ClockOption,
    DramOption,
    JsonOption,
    LatencyOption,
    app,
    check_ending,
    console,
    dram_config,
    load,
    out,
    read_memory,
    show,
)
from moesaic.cli.stages import Stages
from moesaic.spec.errors import UserError
from moesaic.spec.heartbeat import Progress
from moesaic.spec.memory import DEFAULT_MEMORY

if TYPE_CHECKING:
    from moesaic.sim.switching import Switch
    from moesaic.sim.verify import TaskVerdict
    from moesaic.spec.bundle import Bundle


@app.command()
def simulate(
    bundle: BundleArgument,
    input: Annotated[Path, typer.Option(help=".npz with the model's inputs")],
    output: Annotated[Path, typer.Option(help=".npz to write")],
    task: Annotated[str | None, typer.Option(help="which task")] = None,
    stats: Annotated[Path | None, typer.Option(help="write statistics as JSON")] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="write what the units do when: .json for Perfetto")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="write waves: .fst or .vcd; or toggle counts: .saif")
    ] = None,
    clock: ClockOption = None,
    latency: LatencyOption = DEFAULT_MEMORY.latency_cycles,
    bandwidth: BandwidthOption = DEFAULT_MEMORY.bandwidth_share,
    memory: DramOption = "share",
) -> None:
    """Run the RTL cycle by cycle."""
    check_ending(output, "--output", ".npz")
    check_ending(stats, "--stats", ".json")
    check_ending(timeline, "--timeline", ".json")
    check_ending(trace, "--trace", ".fst", ".vcd", ".saif")
    from moesaic.cli.energy_view import energy_line
    from moesaic.cli.time_view import frame_time, time_line
    from moesaic.host.output_file import OutputFile, check_writable, write_all
    from moesaic.host.session import Session
    from moesaic.sim.statistics import frame_statistics
    from moesaic.sim.timeline import chrome_trace
    from moesaic.spec.arrays import open_arrays
    from moesaic.spec.clocks import find_clock
    from moesaic.spec.hostside import task_frames

    loaded = load(bundle)
    timed = find_clock(loaded.arch, clock)
    name = loaded.task(task)
    behind = read_memory(memory, loaded.arch, bandwidth)
    dram = dram_config(latency, bandwidth, behind, timed)
    if trace is not None:
        check_writable(trace)
    arrays = open_arrays(input)
    known = {one: loaded.inputs(one) for one in loaded.tasks}
    inputs = dict.fromkeys(known[name], task_frames(known, name, arrays))
    places = [path.resolve() for path in (output, stats, timeline, trace) if path is not None]
    if len(set(places)) < len(places):
        raise UserError("--output, --stats, --timeline and --trace must be different files")
    with ExitStack() as stack:
        files = {
            path: stack.enter_context(OutputFile(path))
            for path in (output, stats, timeline)
            if path
        }
        stages = stack.enter_context(Stages(console))
        profile = stats is not None or timeline is not None
        # Statistics are those of single frames.
        options = {"dram": dram, "trace": trace, "profile": profile, "together": False}
        (frames,) = (len(rows) for rows in inputs.values())
        expected = _expected(loaded, {name: frames})
        options["progress"] = _show_cycles(stages, f"simulating {name}", expected)
        with Session(loaded, ["sim"], {"sim": options}) as session:
            device: Any = session.device
            outputs = session.run(inputs, name)
            statistics = frame_statistics(
                loaded,
                name,
                outputs.result.counters,
                device.dram,
                device.profiles,
                device.seconds,
                timed,
            )
        writes = [partial(files[output].write_arrays, outputs)]
        if stats is not None:
            writes.append(partial(files[stats].write_json, statistics))
        if timeline is not None:
            events = chrome_trace(device.profiles, f"{name} on {loaded.arch.name}")
            writes.append(partial(files[timeline].write_json, events, indent=None))
        write_all(*writes)
    mean = sum(statistics["cycles"]) / statistics["frames"]
    console.print(
        f"{name}: {statistics['frames']} frames, {mean:.0f} cycles a frame, "
        f"utilisation {statistics['utilisation']:.2f}"
    )
    moved = statistics["dram_read_bytes"] + statistics["dram_write_bytes"]
    figures = frame_time(loaded.arch, timed, mean, moved, bandwidth, behind)
    console.print(f"{name}: {time_line(timed, figures)}")
    console.print(f"{name}: {energy_line(statistics['energy'])}")


@app.command()
def verify(
    bundle: BundleArgument,
    samples: Annotated[int | None, typer.Option(min=1, help="at most so many samples")] = None,
    task: Annotated[str | None, typer.Option(help="only this task")] = None,
    stats: Annotated[
        Path | None, typer.Option(help="write statistics of every task as JSON")
    ] = None,
    switch: Annotated[
        bool, typer.Option("--switch", help="also time the changes from task to task")
    ] = False,
    latency: LatencyOption = DEFAULT_MEMORY.latency_cycles,
    bandwidth: BandwidthOption = DEFAULT_MEMORY.bandwidth_share,
    memory: DramOption = "share",
    as_json: JsonOption = False,
) -> None:
    """Compare the RTL with the integer reference, bit for bit."""
    check_ending(stats, "--stats", ".json")
    from moesaic.host.output_file import OutputFile
    from moesaic.sim.provider import SimulatedAccelerator
    from moesaic.sim.switching import measure_switches, switches_to_list
    from moesaic.sim.verify import verdicts_to_dict
    from moesaic.sim.verify import verify as run
    from moesaic.spec.clocks import find_clock

    loaded = load(bundle)
    tasks = [loaded.task(task)] if task is not None else list(loaded.tasks)
    behind = read_memory(memory, loaded.arch, bandwidth)
    dram = dram_config(latency, bandwidth, behind, find_clock(loaded.arch))
    with ExitStack() as stack:
        file = stack.enter_context(OutputFile(stats)) if stats is not None else None
        frames = {name: len(loaded.sample(name, "input")[:samples]) for name in tasks}
        with Stages(console) as stages:
            expected = _expected(loaded, frames) + _expected_together(loaded, tasks)
            progress = _show_cycles(stages, "simulating", expected)
            device = SimulatedAccelerator(
                loaded, dram=dram, profile=stats is not None, progress=progress
            )
            try:
                verdicts = run(loaded, device, samples, tasks)
                switches = measure_switches(device, [*tasks, tasks[0]]) if switch else []
            finally:
                device.close()
        result = verdicts_to_dict(verdicts)
        if switch:
            result["switches"] = switches_to_list(switches)
        try:
            if file is not None:
                file.write_json({v.task: v.statistics for v in verdicts if v.task in loaded.tasks})
        finally:  # a place that was lost meanwhile does not take the verdict with it
            if as_json:
                print(json.dumps(result, indent=1))
            else:
                _show_verdicts(verdicts, switches)
    if not result["bit_exact"]:
        raise typer.Exit(1)


def _expected(bundle: Bundle, frames: Mapping[str, int]) -> int:
    """Cycles by the compiler's cost model; 0 where it has not said."""
    reports = bundle.report.get("tasks", {})
    return sum(reports.get(task, {}).get("cycles", 0) * count for task, count in frames.items())


def _expected_together(bundle: Bundle, tasks: Sequence[str]) -> int:
    """The same for two runs of every program that computes some of ``tasks`` together."""
    reports = bundle.report.get("joint", {})
    return sum(
        2 * reports.get(name, {}).get("cycles", 0)
        for name, entry in bundle.joint.items()
        if set(entry.tasks) <= set(tasks)
    )


def _show_cycles(stages: Progress, what: str, expected: int) -> Callable[[int], None]:
    """Takes the cycles since its last call, and shows their sum as a share of those expected."""
    total = 0
    stage = f"{what}, about {expected:,} cycles" if expected else what

    def advance(cycles: int) -> None:
        nonlocal total
        total += cycles
        stages(stage, min(total / expected, 1.0) if expected else 0.0)

    return advance


def _show_verdicts(verdicts: Sequence[TaskVerdict], switches: Sequence[Switch]) -> None:
    table = Table(title="RTL against integer reference")
    for column in ("task", "frames", "codes", "differ", "verdict", "SQNR dB", "cycles"):
        table.add_column(column)
    for v in verdicts:
        verdict = "bit-exact" if v.bit_exact else f"DIFFERENT {v.first_difference}"
        table.add_row(
            v.task,
            str(v.frames),
            str(v.codes),
            str(v.differing_codes + v.stale_codes),
            verdict,
            f"{v.sqnr_db:.1f}",
            f"{sum(v.cycles) / max(len(v.cycles), 1):.0f}",
        )
    show(table)
    for change in switches:
        out.print(
            f"{change.before} to {change.after}: {change.weights} cycles from the interrupt"
            " to the first weights"
        )
