"""`moesaic estimate`: cycles without simulating."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from moesaic.cli.console import (
    BandwidthOption,
    JsonOption,
    LatencyOption,
    PartitionOption,
    app,
    check_memory,
    console,
    load,
    out,
)
from moesaic.spec.errors import UserError
from moesaic.spec.memory import DEFAULT_MEMORY


@app.command()
def estimate(
    source: Annotated[Path, typer.Argument(metavar="BUNDLE|MODEL.onnx")],
    target: Annotated[
        str | None, typer.Option(help="preset or .json file; by default the bundle's own")
    ] = None,
    routing: Annotated[
        str | None,
        typer.Option(
            help="'equal', or .json: layer or task/layer to token counts of the experts; by default"
            " equal for a model, and for a bundle as measured on its first calibration sample"
        ),
    ] = None,
    latency: LatencyOption = DEFAULT_MEMORY.latency_cycles,
    bandwidth: BandwidthOption = DEFAULT_MEMORY.bandwidth_share,
    partition: PartitionOption = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate the cycles of a frame from a model of the units, without simulating it."""
    from moesaic.cli.estimate_view import estimate_tables, read_routing
    from moesaic.compiler.estimate.cycles.timing import Memory
    from moesaic.compiler.estimate.models import estimate_bundle, estimate_onnx
    from moesaic.spec.arch import load_arch

    check_memory(latency, bandwidth)
    memory = Memory(latency=latency, share=bandwidth)
    counts = read_routing(Path(routing)) if routing not in (None, "equal") else {}
    with console.status("estimating"):
        if source.is_dir():
            bundle = load(source)
            arch = load_arch(target) if target is not None else bundle.arch
            given = None if routing is None else counts
            results = estimate_bundle(bundle, arch, routing=given, memory=memory)
        elif target is None:
            raise UserError(f"{source} is no bundle: an ONNX model also needs --target")
        else:
            arch = load_arch(target)
            results = estimate_onnx(
                source, arch, partition=partition, routing=counts, memory=memory
            )
    tasks = {name: result.to_dict() for name, result in results.items()}
    if as_json:
        print(json.dumps({"target": arch.name, "tasks": tasks}, indent=1))
        return
    for table in estimate_tables(arch.name, tasks):
        out.print(table)
