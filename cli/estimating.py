"""`moesaic estimate`: cycles without simulating."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesaic.cli.console import (
    BandwidthOption,
    ClockOption,
    DimOption,
    DramOption,
    JsonOption,
    LatencyOption,
    ModelOutputOption,
    PartitionOption,
    SourceArgument,
    app,
    check_memory,
    console,
    load,
    out,
    read_choice,
    read_memory,
    show,
)
from moesaic.spec.errors import UserError
from moesaic.spec.formats import MAX_FRAMES, WEIGHT_BITS
from moesaic.spec.memory import COMPARED_SHARES, DEFAULT_MEMORY

if TYPE_CHECKING:
    from moesaic.compiler.estimate.cycles.timing import Memory
    from moesaic.compiler.ir import Choice
    from moesaic.spec.arch import ArchConfig
    from moesaic.spec.intgraph import IntGraph
    from moesaic.spec.memory import Dram


@app.command()
def estimate(
    source: SourceArgument,
    target: Annotated[
        str | None, typer.Option(help="preset or .json file; by default the bundle's own")
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="all|NAME,NAME",
            help="show these targets side by side: fits, how fast, how much",
        ),
    ] = None,
    clock: ClockOption = None,
    routing: Annotated[
        str | None,
        typer.Option(
            help="'equal', or .json: layer or task/layer to token counts of the experts in a frame"
            " (with --together, of a layer alone: in all frames and tasks); by default"
            " equal for a model, and for a bundle as measured on its first calibration sample"
        ),
    ] = None,
    latency: LatencyOption = DEFAULT_MEMORY.latency_cycles,
    bandwidth: BandwidthOption = DEFAULT_MEMORY.bandwidth_share,
    dram: DramOption = "share",
    partition: PartitionOption = None,
    dim: DimOption = None,
    model_output: ModelOutputOption = None,
    blocks: Annotated[
        str | None,
        typer.Option(
            metavar="HELD:MEANT",
            help="with --targets, of a model: the file has so many equal blocks, estimate so many,"
            " as 2:12",
        ),
    ] = None,
    frames: Annotated[
        int,
        typer.Option(
            min=1, max=MAX_FRAMES, help="frames of a task in one program; not with --targets"
        ),
    ] = 1,
    together: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK,TASK|TASK*N",
            help="of a bundle: these tasks on one image in one program, N frames, or both:"
            " seg,depth*2; again for more",
        ),
    ] = None,
    experts: Annotated[
        int | None,
        typer.Option(metavar="4|8", help="of a model: bits of the experts' weights"),
    ] = None,
    weights: Annotated[
        int | None, typer.Option(metavar="4|8", help="of a model: bits of all weights but gates")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate cycles, and whether targets fit, by a cost model."""
    from moesaic.cli.energy_view import energy_line
    from moesaic.cli.estimate_view import estimate_report, estimate_tables, read_routing
    from moesaic.cli.time_view import shares_line
    from moesaic.compiler.estimate.cycles.timing import Memory
    from moesaic.compiler.estimate.models import estimate_bundle, estimate_onnx
    from moesaic.compiler.quant.weight_bits import WeightBits
    from moesaic.compiler.together import estimate_joint
    from moesaic.spec.clocks import check_clock
    from moesaic.spec.presets import load_arch

    check_memory(latency, bandwidth)
    check_clock(clock)
    if targets is not None and target is not None:
        raise UserError("--targets shows several targets, --target one: give one of the two")
    if blocks is not None and (targets is None or source.is_dir()):
        raise UserError("--blocks is for an ONNX model and --targets")
    if frames > 1 and targets is not None:
        raise UserError("--frames is for one --target, not for --targets")
    if together and (not source.is_dir() or frames > 1 or targets is not None):
        raise UserError(
            "--together is for a bundle and one target; it says frames itself: seg,depth*2"
        )
    if (experts, weights) != (None, None) and (targets is not None or source.is_dir()):
        raise UserError("--experts and --weights are for an ONNX model and one --target")
    bits = WeightBits.of(experts, WEIGHT_BITS if weights is None else weights)
    if dram != "share" and targets is not None:
        raise UserError("--dram is for one --target, not for --targets")
    memory = Memory(latency=latency, share=bandwidth)
    choice = read_choice(dim, model_output)
    counts = read_routing(Path(routing)) if routing not in (None, "equal") else {}
    if targets is not None:
        _estimate_targets(
            source, targets, clock, counts, routing, memory, partition, choice, blocks, as_json
        )
        return
    with console.status("estimating"):
        if source.is_dir():
            bundle = load(source)
            arch = load_arch(target) if target is not None else bundle.arch
            given = None if routing is None else counts
            behind = read_memory(dram, arch, bandwidth)
            memory = _behind(behind, arch, clock, memory)
            if together:
                results = estimate_joint(
                    bundle, together, arch, routing=given, memory=memory, shares=COMPARED_SHARES
                )
            else:
                results = estimate_bundle(
                    bundle,
                    arch,
                    routing=given,
                    memory=memory,
                    frames=frames,
                    shares=COMPARED_SHARES,
                )
        elif target is None:
            raise UserError(f"{source} is no bundle: an ONNX model also needs --target")
        else:
            arch = load_arch(target)
            behind = read_memory(dram, arch, bandwidth)
            memory = _behind(behind, arch, clock, memory)
            results = estimate_onnx(
                source,
                arch,
                partition=partition,
                choice=choice,
                routing=counts,
                memory=memory,
                frames=frames,
                weights=bits,
                shares=COMPARED_SHARES,
            )
    report = estimate_report(arch, results, clock, bandwidth, frames, behind)
    if as_json:
        print(json.dumps(report, indent=1))
        return
    for table, (task, figures) in zip(
        estimate_tables(report), report["tasks"].items(), strict=True
    ):
        show(table)
        line = shares_line(figures["dram_shares"])
        out.print(f"{task}: {line}", highlight=False, soft_wrap=True)
        energy = energy_line(figures["energy"])
        out.print(f"{task}: {energy}", highlight=False, soft_wrap=True)


def _behind(
    dram: Dram | None,
    arch: ArchConfig,
    clock: float | None,
    memory: Memory,
) -> Memory:
    """A DDR memory behind all ports, if there is one."""
    from moesaic.compiler.estimate.shared import ddr_memory
    from moesaic.spec.clocks import find_clock

    if dram is None:
        return memory
    return ddr_memory(arch, dram, find_clock(arch, clock).mhz, memory.latency)


def _measured_routing(bundle: Any) -> dict[str, list[int]]:
    """Tokens of each expert on the first calibration sample."""
    return {
        f"{task}/{layer}": tokens
        for task, report in bundle.report["tasks"].items()
        for layer, tokens in report["routing"].items()
    }


def _estimate_targets(
    source: Path,
    targets: str,
    clock: float | None,
    counts: dict[str, list[int]],
    routing: str | None,
    memory: Memory,
    partition: bool | None,
    choice: Choice,
    blocks: str | None,
    as_json: bool,
) -> None:
    """Every target, side by side."""
    from moesaic.cli.targets_view import (
        beyond_boards,
        read_targets,
        refusals,
        targets_report,
        targets_table,
    )
    from moesaic.compiler.codegen.image import WeightImage
    from moesaic.compiler.estimate.models import deeper_shapes_of_onnx, shapes_of_onnx
    from moesaic.compiler.estimate.repeat import Blocks
    from moesaic.compiler.estimate.shapes import ShapeImage
    from moesaic.compiler.estimate.targets import estimate_targets

    archs = read_targets(targets)
    image: type[WeightImage] = ShapeImage
    deeper = None if blocks is None else Blocks.read(blocks)
    few: dict[str, IntGraph] | None = None
    with console.status("reading the model") as status:
        if source.is_dir():
            bundle = load(source)
            graphs, image = bundle.graphs, WeightImage
            counts = counts if routing is not None else _measured_routing(bundle)
        elif deeper is not None:
            few, graphs = deeper_shapes_of_onnx(source, deeper, partition=partition, choice=choice)
        else:
            graphs = shapes_of_onnx(source, partition=partition, choice=choice)
        status.update(f"estimating {', '.join(arch.name for arch in archs)}")
        results = estimate_targets(
            graphs,
            archs,
            image,
            routing=counts,
            memory=memory,
            few=few,
            shares=COMPARED_SHARES if as_json else (),  # the table has no room for them
        )
        report = targets_report(results, clock, memory.share)
    if as_json:
        print(json.dumps(report, indent=1))
        return
    show(targets_table(report))
    for line in [*refusals(report), *beyond_boards(report)]:
        out.print(line, highlight=False, soft_wrap=True)
