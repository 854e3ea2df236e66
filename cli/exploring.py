"""`moesaic explore`: the target that suits a model and a part."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesaic.cli.console import (
    BandwidthOption,
    DimOption,
    LatencyOption,
    ModelOutputOption,
    PartitionOption,
    SourceArgument,
    app,
    check_memory,
    console,
    load,
    read_choice,
    show,
)
from moesaic.cli.stages import Stages
from moesaic.spec.errors import UserError
from moesaic.spec.memory import DEFAULT_MEMORY

if TYPE_CHECKING:
    from moesaic.compiler.explore.goal import Goal
    from moesaic.compiler.explore.judge import Judge, Verdict
    from moesaic.spec.clocks import Clock

DEFAULT_TRIALS = 200


@app.command()
def explore(
    source: SourceArgument,
    part: Annotated[str, typer.Option(help="part number, board or .json file")],
    objective: Annotated[str, typer.Option(help="latency, fps or area")] = "latency",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="target to write, .json")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=0, help=f"of this run; {DEFAULT_TRIALS} without --seconds")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="end after this time")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of the sampler")] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL",
            help="journal file or database of Optuna; processes that name the same search together",
        ),
    ] = None,
    presets: Annotated[
        bool, typer.Option("--presets/--no-presets", help="begin with the presets")
    ] = True,
    clock: Annotated[
        float | None, typer.Option(metavar="MHZ", help="otherwise the family's, an assumption")
    ] = None,
    max_ms: Annotated[
        float | None, typer.Option(help="most milliseconds of a frame, for --objective area")
    ] = None,
    max_lut: Annotated[float, typer.Option(help="most LUT and flip-flops, share")] = 0.75,
    max_ram: Annotated[float, typer.Option(help="most block RAM, share")] = 0.85,
    max_dsp: Annotated[float, typer.Option(help="most multipliers, share")] = 1.0,
    latency: LatencyOption = DEFAULT_MEMORY.latency_cycles,
    bandwidth: BandwidthOption = DEFAULT_MEMORY.bandwidth_share,
    partition: PartitionOption = None,
    dim: DimOption = None,
    model_output: ModelOutputOption = None,
    picture: Annotated[Path | None, typer.Option(help="draw cycles against area, .png")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write all as JSON")] = None,
) -> None:
    """Search the best target for a model and a part by cost models."""
    from moesaic.cli.explore_view import draw, explore_report, explore_tables
    from moesaic.compiler.estimate.cycles.timing import Memory
    from moesaic.compiler.estimate.models import shapes_of_onnx
    from moesaic.compiler.explore.goal import OBJECTIVES, Goal, best
    from moesaic.compiler.explore.judge import Judge, Limits
    from moesaic.compiler.explore.search import search
    from moesaic.compiler.explore.space import Needs, Space
    from moesaic.compiler.explore.study import finished, open_study, verdicts
    from moesaic.host.output_file import OutputFile
    from moesaic.spec.clocks import family_clock
    from moesaic.spec.parts import load_part
    from moesaic.spec.presets import PRESETS

    check_memory(latency, bandwidth)
    if objective not in OBJECTIVES:
        raise UserError(f"--objective must be one of {', '.join(OBJECTIVES)}, not {objective!r}")
    limits = Limits(lut=max_lut, ram=max_ram, dsp=max_dsp)
    for name, share in (("--max-lut", max_lut), ("--max-ram", max_ram), ("--max-dsp", max_dsp)):
        if not 0 < share <= 1:
            raise UserError(f"{name} takes a share above 0 and up to 1, not {share:g}")
    if max_ms is not None and not 0 < max_ms <= 1e6:
        raise UserError(f"--max-ms takes a number above 0 and up to a million, not {max_ms:g}")
    part_name, described = load_part(part)
    timed = family_clock(described.family, clock)
    goal = Goal(objective, int(max_ms * timed.mhz * 1e3) if max_ms is not None else None)
    if trials is None and seconds is None:
        trials = DEFAULT_TRIALS
    with ExitStack() as files:
        # Before the work: whoever cannot write should not wait for it.
        names = (output, picture, json_file)
        target, image, text = (files.enter_context(OutputFile(p)) if p else None for p in names)
        with Stages(console) as stages:
            stages("reading the model")
            graphs: Any
            if source.is_dir():
                graphs = load(source).graphs
            else:
                choice = read_choice(dim, model_output)
                graphs = shapes_of_onnx(source, partition=partition, choice=choice)
            space = Space(Needs.of(graphs.values()), described)
            judge = Judge(graphs, described, limits, Memory(latency=latency, share=bandwidth))
            key = _identity(judge, goal)
            label = f"{source.stem}-{part_name}-{objective}"
            where = storage or Path("build/explore") / f"{label}.journal"
            study = open_study(where, f"{label}-{key}", seed, shared=storage is not None)
            before = finished(study)
            first = PRESETS.values() if presets else ()
            called = (_target_name(f"{part_name}-{objective}"), part_name)

            def progress(done: int, share: float) -> None:
                stages(f"searching, {before} trials before", share)

            done = search(study, space, judge, goal, called, trials, seconds, first, progress)
            found = verdicts(study.trials)
            chosen = best(found, goal)
            if chosen is None:
                raise UserError(_nothing_fits(found, part_name, goal, timed))
            stages("scheduling the target that was chosen")
            cycles = _scheduled(judge, chosen)
        report = explore_report(found, chosen, cycles, goal, part_name, described, timed, bandwidth)
        report |= {"trials": finished(study), "trials_of_this_run": done, "study": str(where)}
        for table in explore_tables(report):
            show(table)
        if target:
            target.write_json(chosen.arch.to_dict())
        if text:
            text.write_json(report)
        if image:
            image.write_bytes(draw(report))
    console.print(
        f"{done} trials in this run, {report['trials']} in all in {where}",
        highlight=False,
        soft_wrap=True,
    )


def _identity(judge: Judge, goal: Goal) -> str:
    """Hash of what values of trials depend on: a study holds only those that compare."""
    from moesaic.spec import isa, resource_model

    shapes = {
        task: [
            graph.input_shape,
            [[head.depth, *head.shape] for head in graph.heads],
            graph.macs,
            graph.tokens,
            graph.channels,
        ]
        for task, graph in judge.graphs.items()
    }
    parts = [
        shapes,
        asdict(judge.part),
        judge.limits,
        asdict(judge.memory),
        asdict(goal),
        isa.ISA_VERSION,
        resource_model.samples()["coefficients"],
    ]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _target_name(label: str) -> str:
    """A name that `ArchConfig` takes."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in label)
    return (kept.lstrip("._-") or "explored")[:64]


def _scheduled(judge: Judge, chosen: Verdict) -> dict[str, int]:
    """Cycles of the chosen target with the schedule that `compile` finds for it."""
    from moesaic.compiler.estimate.models import estimate_graphs
    from moesaic.compiler.estimate.shapes import ShapeImage

    arch = chosen.arch
    found = estimate_graphs(judge.graphs, arch, memory=judge.memory, image=ShapeImage(arch))
    return {task: estimate.cycles for task, estimate in found.items()}


def _nothing_fits(found: list[Verdict], part: str, goal: Goal, clock: Clock) -> str:
    """Why no trial gave a target; the nearest one says what is missing."""
    from moesaic.compiler.explore.goal import slowest

    slow = [verdict for verdict in found if verdict.cycles]
    refused = [verdict for verdict in found if verdict.refused]
    if not found:
        return f"no trial was made for {part}: give --trials or --seconds more"
    if slow:
        ms = clock.milliseconds(min(map(slowest, slow)))
        return (
            f"no target of {len(found)} fits {part} within --max-ms: the fastest takes {ms:.3g} ms"
            f" at {clock}; allow more, or name a larger part"
        )
    if refused:
        nearest = min(refused, key=lambda verdict: verdict.excess)
        return (
            f"no target of {len(found)} fits {part}: where it has room for the target, the model"
            f" does not fit ({nearest.refused}); name a larger part, or give more trials"
        )
    nearest = min(found, key=lambda verdict: verdict.excess)
    kind = {"lut": "LUT", "ff": "flip-flops", "dsp": "multipliers"}.get(nearest.worst, "block RAM")
    share = nearest.share[nearest.worst]
    return (
        f"no target of {len(found)} fits {part}: the smallest needs {share:.0%} of its {kind},"
        f" {share / nearest.excess:.0%} are allowed; name a larger part, or allow more"
    )
