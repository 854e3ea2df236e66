"""`moesaic report`: a bundle as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesaic.cli.console import (
    BandwidthOption,
    BundleArgument,
    ClockOption,
    LatencyOption,
    app,
    check_memory,
    console,
    load,
)
from moesaic.cli.stages import Stages
from moesaic.spec.errors import UserError
from moesaic.spec.memory import COMPARED_SHARES, DEFAULT_MEMORY


@app.command()
def report(
    bundle: BundleArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write")],
    clock: ClockOption = None,
    timeline: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="of `simulate --timeline`, to draw instead of the cost model's"
        ),
    ] = None,
    resources: Annotated[
        Path | None, typer.Option(metavar="FILE", help="build/resources/TARGET.json")
    ] = None,
    accuracy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="of `accuracy --json`, for dB of each point")
    ] = None,
    latency: LatencyOption = DEFAULT_MEMORY.latency_cycles,
    bandwidth: BandwidthOption = DEFAULT_MEMORY.bandwidth_share,
) -> None:
    """Show a bundle as one HTML page that opens from disk."""
    from dataclasses import replace

    from moesaic.compiler.estimate.cycles.timing import Memory
    from moesaic.compiler.estimate.models import estimate_bundle
    from moesaic.compiler.page.facts import gather_facts
    from moesaic.compiler.page.figures import read_accuracy, read_report, read_resources
    from moesaic.compiler.page.render import render
    from moesaic.compiler.page.timeline import estimated_timeline, read_timeline
    from moesaic.compiler.together import estimate_programs
    from moesaic.host.output_file import OutputFile, check_apart
    from moesaic.spec.clocks import check_clock, find_clock

    check_memory(latency, bandwidth)
    check_clock(clock)
    loaded = load(bundle)
    figures = read_report(loaded)
    read = [*(timeline or []), *filter(None, (resources, accuracy))]
    check_apart(bundle, read, output)
    counted = read_resources(resources, loaded.arch) if resources else None
    decibels = read_accuracy(accuracy, list(loaded.graphs)) if accuracy else None
    with OutputFile(output) as file, Stages(console) as stages:
        memory = replace(DEFAULT_MEMORY, latency_cycles=latency, bandwidth_share=bandwidth)
        stages("reading timelines")
        simulated = [read_timeline(path, loaded.arch.name, loaded.tasks) for path in timeline or []]
        if len({task for task, _ in simulated}) < len(simulated):
            raise UserError("--timeline names two files for the same task: give one of each")
        stages("estimating cycles")
        estimates = estimate_bundle(
            loaded, memory=Memory(latency=latency, share=bandwidth), shares=COMPARED_SHARES
        )
        joint = estimate_programs(
            loaded, memory=Memory(latency=latency, share=bandwidth), shares=COMPARED_SHARES
        )
        facts = gather_facts(
            loaded,
            estimates,
            figures,
            memory,
            find_clock(loaded.arch, clock),
            joint=joint,
            decibels=decibels,
        )
        shorts = {
            task: {layer.name: layer.short for layer in one.layers}
            for task, one in facts.tasks.items()
        }
        lines = {
            task: estimated_timeline(one.estimate, [layer.short for layer in one.layers])
            for task, one in facts.tasks.items()
        }
        lines |= {task: line.renamed(shorts[task]) for task, line in simulated}
        stages("drawing")
        page = render(facts, lines, counted)
        file.write_bytes(page)
    console.print(f"wrote {output}: {len(page) / 1e6:.2f} MB", highlight=False)
