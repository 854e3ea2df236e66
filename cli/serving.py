"""`moesaic serve`: bundles behind a network address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesaic.cli.console import app, console, load
from moesaic.host.serving.limits import (
    BATCH_FRAMES,
    BATCH_WAIT_MS,
    FEWEST_CONNECTIONS,
    LONGEST_BATCH_WAIT_MS,
    MOST_BATCH_FRAMES,
    MOST_CONNECTIONS,
    Limits,
)
from moesaic.spec.errors import UserError

if TYPE_CHECKING:
    from moesaic.host.options import Options
    from moesaic.host.serving.bundles import Served
    from moesaic.spec.bundle import Bundle

_MAX_BODY_MIB = Limits.body_bytes / (1 << 20)
_LONGEST_SECONDS = 3600


@app.command()
def serve(
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]BUNDLE", help="bundle directory; with a NAME models are NAME.TASK"
        ),
    ],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on; 0 takes a free one")] = 8000,
    grpc_port: Annotated[
        int | None, typer.Option(help="answer gRPC too, on this port; 0 takes a free one")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DEVICE,...", help="devices by preference, also for one bundle"
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME:]DEVICE.NAME=VALUE", help="e.g. fpga.clock_hz=300000000, for all or one"
        ),
    ] = None,
    queue: Annotated[int, typer.Option(help="most requests accepted at a time")] = Limits.queue,
    batch: Annotated[
        int, typer.Option(help="most frames of several requests in one call of a device; 1: none")
    ] = BATCH_FRAMES,
    batch_wait_ms: Annotated[
        float, typer.Option(help="longest wait for more requests while the device idles, ms")
    ] = BATCH_WAIT_MS,
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
    log_format: Annotated[str, typer.Option(help="text, or json: one object a line")] = "text",
    access_log: Annotated[
        bool, typer.Option("--access-log", help="log a line of each request")
    ] = False,
) -> None:
    """Answer requests by the Open Inference Protocol until SIGTERM."""
    from moesaic.host.serving.access import read_access
    from moesaic.host.serving.lines import FORMATS, fields, written
    from moesaic.host.serving.logs import logger
    from moesaic.host.serving.server import Server, address_of, bind

    _check(queue, max_body, connections)
    joining = _joining(batch, batch_wait_ms)
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
    limits = Limits(
        queue=queue,
        body_bytes=int(max_body * (1 << 20)),
        connections=connections,
        head_seconds=head_timeout,
        body_seconds=body_timeout,
        answer_seconds=answer_timeout,
        idle_seconds=idle_timeout,
    )
    if log_format not in FORMATS:
        raise UserError(f"--log-format must be {' or '.join(FORMATS)}, not {log_format!r}")
    access = read_access(token_file, tls_certificate, tls_key)
    plans = _plan(bundles, device or (), option or ())
    # The port first, for opening a device can take minutes.
    with written(log_format, access_log), ExitStack() as places:
        listener = places.enter_context(bind(host, port))
        rpc = None
        if grpc_port is not None:
            import grpc  # noqa: F401  # what lacks is said now

            rpc = places.enter_context(bind(host, grpc_port, "--grpc-port"))
        with _opened(plans, {"queue_frames": queue, **joining}) as served:
            models = [name for one in served for name in one.models.values()]
            url = address_of(listener, access.scheme)
            rpc_url = address_of(rpc, access.scheme.replace("http", "grpc")) if rpc else None
            where = url if rpc_url is None else f"{url} and {rpc_url}"
            line = f"serving {', '.join(models)} on {where}, device {_devices(served)}"
            started = fields("started", models=models, url=url, grpc_url=rpc_url)
            server = Server(served, limits, lambda: logger.info(line, extra=started), access, rpc)
            server.run(sockets=[listener])
        logger.info("all accepted requests are answered", extra=fields("stopped"))


def _check(queue: int, max_body: float, connections: int) -> None:
    if queue < 1 or not 0 < max_body <= 1024:
        raise UserError("--queue must be at least 1 and --max-body above 0 and at most 1024")
    if not FEWEST_CONNECTIONS <= connections <= MOST_CONNECTIONS:
        raise UserError(f"--connections must be {FEWEST_CONNECTIONS} to {MOST_CONNECTIONS}")


def _joining(batch: int, wait_ms: float) -> dict[str, Any]:
    """How sessions join requests."""
    if not 1 <= batch <= MOST_BATCH_FRAMES:
        raise UserError(f"--batch must be 1 to {MOST_BATCH_FRAMES} frames, not {batch}")
    if not 0 <= wait_ms <= LONGEST_BATCH_WAIT_MS:
        raise UserError(f"--batch-wait-ms must be 0 to {LONGEST_BATCH_WAIT_MS:g}, not {wait_ms:g}")
    return {"batch_frames": batch, "batch_wait_seconds": wait_ms / 1000}


@dataclass(frozen=True)
class _Plan:
    """A bundle before its devices are opened."""

    name: str
    bundle: Bundle
    models: dict[str, str]
    devices: str
    options: Options


def _plan(texts: Sequence[str], devices: Sequence[str], options: Sequence[str]) -> list[_Plan]:
    """All that can be wrong with the bundles' arguments is found here."""
    from moesaic.host.options import parse_options
    from moesaic.host.serving.bundles import by_bundle, model_names, read_names

    named = read_names(texts)
    names = [bundle.name for bundle in named]
    devices_of = by_bundle(devices, "=", names, "--device")
    options_of = by_bundle(options, ":", names, "--option")
    for name, found in devices_of.items():
        if len(found) > 1:
            whose = f" for {name}" if name else ""
            raise UserError(
                f"--device is given {len(found)} times{whose}: give one list, as in"
                f" {','.join(found)}, or [NAME=]LIST for each bundle"
            )
    loaded = [load(bundle.path) for bundle in named]
    models = model_names(list(zip(named, (bundle.tasks for bundle in loaded), strict=True)))
    label = len(named) > 1 or named[0].given
    return [
        _Plan(
            bundle.name if label else "",
            one,
            names_of,
            (devices_of.get(bundle.name) or devices_of[""] or ["cpu"])[0],
            _merged(parse_options(options_of[""]), parse_options(options_of.get(bundle.name, ()))),
        )
        for bundle, one, names_of in zip(named, loaded, models, strict=True)
    ]


def _merged(common: Options, own: Options) -> Options:
    """Options of all bundles and of one, whose own come first."""
    devices = dict.fromkeys((*common, *own))
    return {device: {**common.get(device, {}), **own.get(device, {})} for device in devices}


@contextmanager
def _opened(plans: Sequence[_Plan], sizes: dict[str, Any]) -> Iterator[list[Served]]:
    """A session for each bundle; they close behind the block."""
    from moesaic.host.serving.bundles import Served
    from moesaic.host.session import Session

    with ExitStack() as sessions:
        served = []
        with console.status("opening devices"):
            for plan in plans:
                session = Session(plan.bundle, plan.devices, plan.options, **sizes)
                served.append(Served(plan.name, sessions.enter_context(session), plan.models))
        yield served


def _devices(served: Sequence[Served]) -> str:
    if len(served) == 1:
        return served[0].session.device.name
    return ", ".join(f"{one.session.device.name} ({one.name})" for one in served)
