"""`moesaic run`, `serve`: bundles on devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesaic.cli.console import BundleArgument, app, check_ending, console, load
from moesaic.host.serving.limits import FEWEST_CONNECTIONS, MOST_CONNECTIONS, Limits
from moesaic.spec.errors import UserError

_MAX_BODY_MIB = Limits.body_bytes / (1 << 20)
_LONGEST_SECONDS = 3600

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
    inputs = {loaded.graphs[name].input_name: task_frames(loaded.graphs, name, arrays)}
    with OutputFile(output) as file, Session(loaded, device, options, strict=strict) as session:
        with console.status(f"running on {session.device.name}"):
            outputs = session.run(inputs, name)
        file.write_arrays(outputs)
        for place in session.placement():
            if place.reason:
                console.print(f"{place.device} passed over: {place.reason}", markup=False)
        console.print(f"ran on {outputs.device}, {outputs.latency_seconds:.3f} s")


@app.command()
def serve(
    bundle: BundleArgument,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on; 0 takes a free one")] = 8000,
    device: Annotated[str, typer.Option(help="devices by preference")] = "cpu",
    option: OptionsOption = None,
    queue: Annotated[int, typer.Option(help="most requests accepted at a time")] = Limits.queue,
    max_body: Annotated[float, typer.Option(help="longest request body, MiB")] = _MAX_BODY_MIB,
    connections: Annotated[
        int, typer.Option(help="most connections; fewer, if file descriptors are short")
    ] = Limits.connections,
    head_timeout: Annotated[
        float, typer.Option(help="seconds for the head of a request to arrive")
    ] = Limits.head_seconds,
    body_timeout: Annotated[
        float, typer.Option(help="seconds for a body to arrive")
    ] = Limits.body_seconds,
    answer_timeout: Annotated[
        float, typer.Option(help="seconds for a client to read an answer")
    ] = Limits.answer_seconds,
    idle_timeout: Annotated[
        float, typer.Option(help="seconds that a connection may say nothing between requests")
    ] = Limits.idle_seconds,
    token_file: Annotated[
        Path | None, typer.Option(help="file with the token that requests must carry")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM: answer over TLS, with --tls-key")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM: the certificate's key")] = None,
) -> None:
    """Answer inference requests over HTTP (Open Inference Protocol) until SIGTERM."""
    from moesaic.host.options import parse_options
    from moesaic.host.serving.access import read_access
    from moesaic.host.serving.server import Server, address_of, bind
    from moesaic.host.session import Session

    if queue < 1 or not 0 < max_body <= 1024:
        raise UserError("--queue must be at least 1 and --max-body above 0 and at most 1024")
    for name, seconds in (
        ("head", head_timeout),
        ("body", body_timeout),
        ("answer", answer_timeout),
        ("idle", idle_timeout),
    ):
        if not 0 < seconds <= _LONGEST_SECONDS:
            raise UserError(
                f"--{name}-timeout must be above 0 and at most {_LONGEST_SECONDS} seconds"
            )
    if not FEWEST_CONNECTIONS <= connections <= MOST_CONNECTIONS:
        raise UserError(f"--connections must be {FEWEST_CONNECTIONS} to {MOST_CONNECTIONS}")
    limits = Limits(
        queue=queue,
        body_bytes=int(max_body * (1 << 20)),
        connections=connections,
        head_seconds=head_timeout,
        body_seconds=body_timeout,
        answer_seconds=answer_timeout,
        idle_seconds=idle_timeout,
    )
    access = read_access(token_file, tls_certificate, tls_key)
    loaded = load(bundle)
    # The port first, for opening a device can take minutes.
    with bind(host, port) as listener:
        with console.status("opening devices"):
            session = Session(loaded, device, parse_options(option or ()), queue_frames=queue)
        with session:
            tasks, url = ", ".join(loaded.tasks), address_of(listener, access.scheme)
            line = f"serving {tasks} on {url}, device {session.device.name}"
            server = Server(
                session, limits, lambda: console.print(line, soft_wrap=True, markup=False), access
            )
            server.run(sockets=[listener])
    console.print("all accepted requests are answered")
