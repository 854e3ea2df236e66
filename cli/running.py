"""`moesaic run`: a bundle on devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesaic.cli.console import BundleArgument, app, check_ending, console, load

OptionsOption = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="DEVICE.NAME=VALUE", help="e.g. fpga.clock_hz=300000000"),
]


@app.command()
def run(
    bundle: BundleArgument,
    input: Annotated[Path, typer.Option(help=".npz with the model's inputs")],
    output: Annotated[Path, typer.Option(help=".npz to write")],
    task: Annotated[str | None, typer.Option(help="which task")] = None,
    device: Annotated[str, typer.Option(help="devices by preference")] = "cpu",
    option: OptionsOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="no other than the first one")] = False,
) -> None:
    """Run a task on the first device that works."""
    check_ending(output, "--output", ".npz")
    from moesaic.host.options import parse_options
    from moesaic.host.output_file import OutputFile
    from moesaic.host.session import Session
    from moesaic.spec.arrays import open_arrays
    from moesaic.spec.hostside import task_frames

    arrays = open_arrays(input)
    options = parse_options(option or ())
    loaded = load(bundle)
    name = loaded.task(task)
    known = {one: loaded.inputs(one) for one in loaded.tasks}
    inputs = dict.fromkeys(known[name], task_frames(known, name, arrays))
    with OutputFile(output) as file, Session(loaded, device, options, strict=strict) as session:
        with console.status(f"running on {session.device.name}"):
            outputs = session.run(inputs, name)
        file.write_arrays(outputs)
        for place in session.placement():
            if place.reason:
                console.print(f"{place.device} passed over: {place.reason}")
        console.print(f"ran on {outputs.device}, {outputs.latency_seconds:.3f} s")
