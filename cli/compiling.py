"""`moesaic compile`, `inspect`, `targets`: from models to bundles, and what they hold."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from moesaic.cli.console import (
    BandwidthOption,
    BundleArgument,
    DimOption,
    JsonOption,
    ModelOutputOption,
    PartitionOption,
    app,
    check_memory,
    console,
    load,
    read_dims,
    read_outputs,
    show,
)
from moesaic.cli.stages import Stages
from moesaic.spec.errors import UserError
from moesaic.spec.formats import FEW_WEIGHT_BITS, MAX_FRAMES
from moesaic.spec.memory import DEFAULT_MEMORY

if TYPE_CHECKING:
    from moesaic.compiler.accuracy.widths import Goal


@app.command()
def compile(
    models: Annotated[
        list[str], typer.Argument(metavar="[TASK=]MODEL.onnx...", help="a model for each task")
    ],
    target: Annotated[str, typer.Option(help="preset or .json file, see `moesaic targets`")],
    calibrate: Annotated[Path, typer.Option(help=".npz: input names to sample arrays")],
    output: Annotated[Path, typer.Option("-o", "--output", help="bundle directory to write")],
    partition: PartitionOption = None,
    dim: DimOption = None,
    model_output: ModelOutputOption = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help=".npz to measure on; without it every fourth calibration sample"),
    ] = None,
    target_sqnr: Annotated[
        float | None, typer.Option(metavar="DB", help="give points 16 bits until this is reached")
    ] = None,
    budget_cycles: Annotated[
        str,
        typer.Option(metavar="N|P%", help="most cycles of a frame, or so much more for 16 bits"),
    ] = "",
    together: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK,TASK|TASK*N",
            help="also a program of these tasks on one image, or of N frames: seg,depth*2; again"
            " for more",
        ),
    ] = None,
    frames: Annotated[
        int,
        typer.Option(min=1, max=MAX_FRAMES, help="also a program of so many frames of each task"),
    ] = 1,
    experts: Annotated[
        int | None,
        typer.Option(metavar="4|8", help="bits of the experts' weights; by default as --weights"),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(metavar="4|8|auto", help="bits of all weights but gates, or chosen by layer"),
    ] = "8",
    min_sqnr: Annotated[
        float | None, typer.Option(metavar="DB", help="what --weights auto keeps")
    ] = None,
    bandwidth: BandwidthOption = DEFAULT_MEMORY.bandwidth_share,
    without: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            help="leave out of quantisation: rotate, centre, equalise, ranges, feedback, correct",
        ),
    ] = "",
) -> None:
    """Compile one ONNX model per task into a bundle."""
    from moesaic.cli.placement_view import placement_table
    from moesaic.compiler.driver import compile as run
    from moesaic.compiler.estimate.cycles.timing import Memory
    from moesaic.compiler.quant import QuantOptions
    from moesaic.compiler.quant.weight_bits import WeightBits
    from moesaic.spec.manifest import MANIFEST

    check_memory(DEFAULT_MEMORY.latency_cycles, bandwidth)
    options = QuantOptions().without(name for name in without.split(",") if name)
    goal = _goal(target_sqnr, budget_cycles)
    bits = WeightBits.of(
        experts, int(weights) if weights.isdecimal() and len(weights) < 4 else weights, min_sqnr
    )
    tasks: dict[str, str | Path] = {}
    if os.path.exists(output / MANIFEST):  # Path.exists raises for a name that is too long
        console.print(f"{output} holds a bundle, which will be replaced")
    for model in models:
        name, separator, path = model.partition("=")
        name, path = (name, path) if separator else ("default", model)
        if name in tasks:
            raise UserError(f"task {name!r} is given twice; write TASK=FILE.onnx with other names")
        tasks[name] = path
    with Stages(console) as stages:
        report = run(
            tasks,
            target,
            calibrate,
            output,
            stages,
            partition=partition,
            options=options,
            held_out=held_out,
            goal=goal,
            weights=bits,
            memory=Memory(share=bandwidth),
            dims=read_dims(dim),
            outputs=read_outputs(model_output, tasks),
            together=[*(together or []), *(f"{name}*{frames}" for name in tasks if frames > 1)],
        )
    for name, task in report["tasks"].items():
        quantised = task["quantisation"]
        console.print(
            f"{name}: {task['macs'] / 1e6:.1f} M MAC"
            f"{'' if task['host'] or task['front'] else ', all on the accelerator'},"
            f" about {task['cycles']:,} cycles a frame,"
            f" SQNR {task['sqnr_db']:.1f} dB on"
            f" {quantised['samples']} samples"
            f" {'held out' if quantised['held_out'] else 'that calibration saw'}"
        )
        if len(task["outputs_db"]) > 1:
            each = ", ".join(f"{output} {db:.1f}" for output, db in task["outputs_db"].items())
            console.print(f"  SQNR of each output, dB: {each}", markup=False)
        if wide := _wide(quantised["points"]):
            console.print(f"  in 16 bits: {wide}")
        if few := _few(task["weights"]):
            console.print(f"  {few}", markup=False)
        if task["warning"]:
            console.print(Text.assemble("  ", ("warning:", "yellow"), f" {task['warning']}"))
        console.print(f"  {_compared(task['validation'])}")
        for note in [*task["notes"], *task["quantisation"]["notes"]]:
            console.print(f"  note: {note}")
        if task["host"] or task["front"]:
            show(placement_table(name, task), console)
    for line in joint_lines(report):
        console.print(line)
    for line in _shares(target, report):
        console.print(line)
    console.print(f"wrote {output}: {report['weight_bytes'] / 1e6:.2f} MB of weights")
    console.print(f"took {stages.summary()}")


def _goal(target_sqnr: float | None, budget: str) -> Goal | None:
    """What 16-bit rows are for; ``budget`` in cycles, or ``15%`` more than without."""
    from moesaic.compiler.accuracy.widths import Goal

    if target_sqnr is None and not budget:
        return None
    if target_sqnr is not None and not 0 <= target_sqnr < math.inf:
        raise UserError(f"--target-sqnr takes decibels from 0 on, not {target_sqnr:g}")
    if not budget:
        return Goal(target_sqnr)
    try:
        if budget.endswith("%"):
            goal = Goal(target_sqnr, more=float(budget[:-1]) / 100)
        else:
            goal = Goal(target_sqnr, cycles=int(float(budget)))
    except (ValueError, OverflowError):
        goal = Goal(more=-1.0)
    if (goal.cycles or 0) < 0 or not 0 <= (goal.more or 0) < math.inf:
        raise UserError(f"--budget-cycles takes cycles of a frame, or 15% more, not {budget!r}")
    return goal


def joint_lines(report: dict[str, Any]) -> Iterator[str]:
    """What computing together saves, a line for each program."""
    from moesaic.spec.joint import JointEntry, worth_running

    tasks, joint = report["tasks"], report["joint"]
    entries = {
        name: JointEntry(program["tasks"], program["frames"], 0, 0, [])
        for name, program in joint.items()
    }
    cycles = {name: program["cycles"] for name, program in {**tasks, **joint}.items()}
    used = worth_running(entries, cycles)
    for name, program in joint.items():
        alone = program["frames"] * sum(cycles[task] for task in program["tasks"])
        saved = 1 - cycles[name] / alone
        yield (
            f"{name}: about {cycles[name]:,} cycles together, {alone:,} one by one"
            + (f" ({saved:.0%} less)" if name in used else "")
        )
        if name not in used:
            yield "  note: other programs do the same in no more cycles, so it is never run"
        for note in program["notes"]:
            yield f"  note: {note}"


def _shares(target: str, report: dict[str, Any]) -> Iterator[str]:
    """How long frames take by what DRAM sustains, and what energy, two lines for each program."""
    from moesaic.cli.energy_view import energy_line
    from moesaic.cli.time_view import shared_times, shares_line
    from moesaic.spec.clocks import find_clock
    from moesaic.spec.joint import joint_frames
    from moesaic.spec.presets import load_arch

    arch = load_arch(target)
    clock = find_clock(arch)
    for name, program in {**report["tasks"], **report["joint"]}.items():
        times = shared_times(arch, clock, program["cycles_at"], joint_frames(name))
        yield f"{name} at {clock}: {shares_line(times)}"
        yield f"{name}: {energy_line(program['energy'])}"


def _wide(points: dict[str, Any]) -> str:
    """Names of the points that have 16 bits instead of eight."""
    from moesaic.compiler.points import WIDE_KINDS, layer_point

    wide = {
        layer_point(name): point["wide_channels"]
        for name, point in points.items()
        if name.endswith(WIDE_KINDS) and (point["bits"] == 16 or point["wide_channels"])
    }
    return ", ".join(f"{name} ({some} channels)" if some else name for name, some in wide.items())


def _few(weights: dict[str, Any]) -> str:
    """What has weights of four bits, if anything has."""
    few = [name for name, part in weights.items() if FEW_WEIGHT_BITS in part["bits"]]
    total = sum(part["bytes"] for part in weights.values())
    return (
        f"weights of {FEW_WEIGHT_BITS} bits: {', '.join(few)}; {total / 1e6:.2f} MB in all"
        if few
        else ""
    )


def _compared(validation: dict[str, Any]) -> str:
    """Say how what was recognised compares with the file."""
    ties, unreached = validation["near_ties"], validation["unreached_experts"]
    lost = validation["incomparable"]
    return (
        f"as ONNX Runtime has it at {validation['points']} tensors on {validation['samples']}"
        f" inputs, calibration and perturbed: at most {validation['worst']:.0%} of what rounding"
        " allows"
        + (f"; {ties} tokens near a tie between experts left out" if ties else "")
        + (f"; {lost} tokens that float32 does not settle left out" if lost else "")
        + (f"; {unreached} experts got no token, so nothing is known of them" if unreached else "")
    )


_STREAM = "stream MB: weights and their parameters as a run reads them, some more than once"


@app.command()
def inspect(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Show what a bundle holds."""
    from moesaic.cli.placement_view import placement_table

    loaded = load(bundle)
    if as_json:
        value = {"arch": loaded.arch.to_dict(), "arch_hash": loaded.arch.hash, **loaded.report}
        print(json.dumps(value, indent=1))
        return
    arch = loaded.arch
    table = Table(title=f"{bundle}: {arch.name}, {arch.depth}x{arch.width}, 0x{arch.hash:08x}")
    columns = ("task", "input", "output", "tokens", "M MAC", "instructions", "stream MB", "SQNR dB")
    for column in columns:
        table.add_column(column)
    for name, task in loaded.report["tasks"].items():
        begins = loaded.inputs(name)
        ends = loaded.outputs(name)
        table.add_row(
            name,
            ", ".join(f"{start} {'x'.join(map(str, shape))}" for start, shape in begins.items()),
            ", ".join(f"{end} {'x'.join(map(str, shape))}" for end, shape in ends.items()),
            str(task["tokens"]),
            f"{task['macs'] / 1e6:.2f}",
            str(task["instructions"]),
            f"{task['weight_stream_bytes'] / 1e6:.2f}",
            f"{task['sqnr_db']:.1f}",
        )
    table.caption = _STREAM
    show(table)
    if loaded.joint:
        show(_together_table(loaded))
    for name, task in loaded.report["tasks"].items():
        if task["host"] or task["front"]:
            show(placement_table(name, task))


def _together_table(bundle: Any) -> Table:
    """Programs of several tasks or frames."""
    from moesaic.spec.isa import INSTRUCTION_BYTES

    table = Table(title="computed together, beside single frames")
    for column in ("program", "tasks", "frames", "instructions", "stream MB"):
        table.add_column(column)
    for name, entry in bundle.joint.items():
        table.add_row(
            Text(name),
            Text(", ".join(entry.tasks)),
            str(entry.frames),
            str(len(bundle.programs[name]) // INSTRUCTION_BYTES),
            f"{entry.weight_words * bundle.arch.ring_read_bytes / 1e6:.2f}",
        )
    return table


@app.command()
def targets(
    as_json: JsonOption = False,
    shown: Annotated[
        str | None,
        typer.Option("--show", metavar="NAME", help="print one as JSON, to begin a file with"),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="print the JSON schema of a target file")
    ] = False,
) -> None:
    """List the architecture presets."""
    from moesaic.compiler.estimate.rating import rate
    from moesaic.spec.arch_schema import arch_schema
    from moesaic.spec.boards import dram_of
    from moesaic.spec.clocks import find_clock
    from moesaic.spec.presets import PRESETS, load_arch

    if schema or shown is not None:
        value = arch_schema() if shown is None else load_arch(shown).to_dict()
        print(json.dumps(value, indent=1))
        return
    if as_json:
        print(json.dumps({name: arch.to_dict() for name, arch in PRESETS.items()}, indent=1))
        return
    table = Table(title="targets")
    for column in (
        "name",
        "array",
        "lanes",
        "weight ports",
        "ring",
        "activations",
        "clock",
        "DRAM",
        "frames/s",
        "for",
    ):
        table.add_column(column)
    for name, arch in PRESETS.items():
        table.add_row(
            name,
            f"{arch.depth}x{arch.width}{' packed' if arch.packed else ''}",
            str(arch.lanes),
            f"{arch.weight_ports} x {8 * arch.weight_port_bytes} bit",
            f"{arch.ring_bytes >> 10} KiB",
            f"{arch.activation_bytes >> 10} KiB",
            str(find_clock(arch)),
            str(dram_of(arch) or "of no board"),
            str(rate(arch) or "-"),
            arch.device,
        )
    show(table)
