"""The command line. It ties compiler, gateware, simulator and runtime together.

Every command imports what it needs itself, so that a board without compiler or simulator can use
the others. A :class:`UserError` becomes one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from moesaic.spec.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Mixture-of-experts vision transformers on FPGAs: compile, simulate, verify, run.",
)
console = Console(stderr=True)
out = Console()

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="bundle directory")]
PartitionOption = Annotated[
    bool,
    typer.Option("--partition", help="leave to the host what comes behind the layers and must"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
LatencyOption = Annotated[int, typer.Option(help="DRAM first-word latency, cycles")]
BandwidthOption = Annotated[float, typer.Option(help="sustained share of the DRAM's peak")]


def _check_memory(latency: int, bandwidth: float) -> None:
    if latency < 1 or not 0 < bandwidth <= 1:
        raise UserError("--latency must be at least 1 and --bandwidth above 0 and at most 1")


def _dram(latency: int, bandwidth: float) -> Any:
    from moesaic.sim.dram import DramConfig

    _check_memory(latency, bandwidth)
    return DramConfig(latency_cycles=latency, bandwidth_share=bandwidth)


def _load(bundle: Path) -> Any:
    from moesaic.spec.bundle import load_bundle

    return load_bundle(bundle)


def _show_cycles(status: Any, what: str) -> Callable[[int], None]:
    """Takes the cycles since its last call, and shows their sum."""
    total = 0

    def advance(cycles: int) -> None:
        nonlocal total
        total += cycles
        status.update(f"{what}: {total:,} cycles")

    return advance


def _read_arrays(path: Path) -> dict[str, Any]:
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise UserError(f"input file {path} cannot be read as .npz: {error}") from error


def _write_beside(path: Path, write: Any) -> None:
    """Write a file under another name and rename it, so that a half-written one never shows."""
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            write(file)
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    import numpy as np

    _write_beside(path, lambda file: np.savez_compressed(file, **arrays))


def _write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    _write_beside(path, lambda file: file.write(json.dumps(value, indent=indent).encode()))


@app.command()
def compile(
    models: Annotated[list[str], typer.Argument(metavar="[TASK=]MODEL.onnx...")],
    target: Annotated[str, typer.Option(help="preset or .json file, see `moesaic targets`")],
    calibrate: Annotated[Path, typer.Option(help=".npz: input names to sample arrays")],
    output: Annotated[Path, typer.Option("-o", "--output", help="bundle directory to write")],
    partition: PartitionOption = False,
) -> None:
    """Compile one ONNX model per task into a bundle."""
    from moesaic.compiler.driver import compile as run
    from moesaic.host.placement_view import placement_table

    tasks: dict[str, str | Path] = {}
    for model in models:
        name, separator, path = model.partition("=")
        name, path = (name, path) if separator else ("default", model)
        if name in tasks:
            raise UserError(f"task {name!r} is given twice; write TASK=FILE.onnx with other names")
        tasks[name] = path
    with console.status("compiling") as status:
        report = run(tasks, target, calibrate, output, status.update, partition=partition)
    for name, task in report["tasks"].items():
        console.print(
            f"{name}: {task['macs'] / 1e6:.1f} M MAC, SQNR {task['sqnr_db']:.1f} dB"
            f" on the calibration samples"
        )
        for note in task["notes"]:
            console.print(f"  note: {note}")
        if task["host"]:
            console.print(placement_table(name, task))
    console.print(f"wrote {output}: {report['weight_bytes'] / 1e6:.2f} MB of weights")


@app.command()
def inspect(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Show what a bundle holds."""
    from moesaic.host.placement_view import placement_table

    loaded = _load(bundle)
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
        graph = loaded.graphs[name]
        ends = loaded.outputs(name)
        table.add_row(
            name,
            f"{graph.input_name} {'x'.join(map(str, graph.input_shape))}",
            ", ".join(f"{end} {'x'.join(map(str, shape))}" for end, shape in ends.items()),
            str(task["tokens"]),
            f"{task['macs'] / 1e6:.2f}",
            str(task["instructions"]),
            f"{task['weight_stream_bytes'] / 1e6:.2f}",
            f"{task['sqnr_db']:.1f}",
        )
    out.print(table)
    for name, task in loaded.report["tasks"].items():
        if task["host"]:
            out.print(placement_table(name, task))


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
    trace: Annotated[Path | None, typer.Option(help="write waves: .fst or .vcd")] = None,
    latency: LatencyOption = 60,
    bandwidth: BandwidthOption = 0.9,
) -> None:
    """Run the RTL cycle by cycle."""
    from moesaic.host.session import Session
    from moesaic.sim.statistics import frame_statistics
    from moesaic.sim.timeline import chrome_trace

    loaded = _load(bundle)
    name = loaded.task(task)
    dram = _dram(latency, bandwidth)
    if trace is not None and trace.suffix not in (".fst", ".vcd"):
        raise UserError(f"--trace must end in .fst or .vcd, not {trace.name!r}")
    if timeline is not None and timeline.suffix != ".json":
        raise UserError(f"--timeline must end in .json, not {timeline.name!r}")
    arrays = _read_arrays(input)
    with console.status(f"simulating {name}") as status:
        profile = stats is not None or timeline is not None
        options = {"dram": dram, "trace": trace, "profile": profile}
        options["progress"] = _show_cycles(status, f"simulating {name}")
        with Session(loaded, ["sim"], {"sim": options}) as session:
            device: Any = session.device
            outputs = session.run(arrays, name)
            statistics = frame_statistics(
                loaded, name, outputs.result.counters, device.dram, device.profiles, device.seconds
            )
    _write_arrays(output, outputs)
    if stats is not None:
        _write_json(stats, statistics)
    if timeline is not None:
        title = f"{name} on {loaded.arch.name}"
        _write_json(timeline, chrome_trace(device.profiles, title), indent=None)
    mean = sum(statistics["cycles"]) / statistics["frames"]
    console.print(
        f"{name}: {statistics['frames']} frames, {mean:.0f} cycles a frame, "
        f"utilisation {statistics['utilisation']:.2f}"
    )


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
    latency: LatencyOption = 60,
    bandwidth: BandwidthOption = 0.9,
    as_json: JsonOption = False,
) -> None:
    """Compare the RTL with the integer reference, bit for bit, on every task."""
    from moesaic.sim.provider import SimulatedAccelerator
    from moesaic.sim.switching import measure_switches, switches_to_list
    from moesaic.sim.verify import verdicts_to_dict
    from moesaic.sim.verify import verify as run

    loaded = _load(bundle)
    tasks = [loaded.task(task)] if task is not None else list(loaded.tasks)
    dram = _dram(latency, bandwidth)
    with console.status("building the simulator") as status:
        progress = _show_cycles(status, "simulating")
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
    if stats is not None:
        _write_json(stats, {verdict.task: verdict.statistics for verdict in verdicts})
    if as_json:
        print(json.dumps(result, indent=1))
    else:
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
        out.print(table)
        for change in switches:
            out.print(
                f"{change.before} to {change.after}: {change.weights} cycles from the interrupt"
                " to the first weights"
            )
    if not result["bit_exact"]:
        raise typer.Exit(1)


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
    latency: LatencyOption = 60,
    bandwidth: BandwidthOption = 0.9,
    partition: PartitionOption = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate the cycles of a frame from a model of the units, without simulating it."""
    from moesaic.compiler.estimating import estimate_graphs, estimate_onnx
    from moesaic.compiler.schedule.cycles.timing import Memory
    from moesaic.compiler.schedule.options import Schedule
    from moesaic.host.estimate_view import estimate_tables, read_routing
    from moesaic.spec.arch import load_arch

    _check_memory(latency, bandwidth)
    memory = Memory(latency=latency, share=bandwidth)
    counts = read_routing(Path(routing)) if routing not in (None, "equal") else {}
    with console.status("estimating"):
        if source.is_dir():
            bundle = _load(source)
            arch = load_arch(target) if target is not None else bundle.arch
            if routing is None:
                counts = {
                    f"{task}/{layer}": tokens
                    for task, report in bundle.report["tasks"].items()
                    for layer, tokens in report["routing"].items()
                }
            schedules = {
                task: Schedule(**report["schedule"])
                for task, report in bundle.report["tasks"].items()
            }
            results = estimate_graphs(
                bundle.graphs,
                arch,
                routing=counts,
                memory=memory,
                schedules=schedules if arch == bundle.arch else None,
            )
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


@app.command()
def run(
    bundle: BundleArgument,
    input: Annotated[Path, typer.Option(help=".npz with the model's inputs")],
    output: Annotated[Path, typer.Option(help=".npz to write")],
    task: Annotated[str | None, typer.Option(help="which task")] = None,
    device: Annotated[str, typer.Option(help="devices by preference")] = "cpu",
    strict: Annotated[bool, typer.Option("--strict", help="no other than the first one")] = False,
) -> None:
    """Run a task on the first device that works."""
    from moesaic.host.session import Session

    arrays = _read_arrays(input)
    names = [name.strip() for name in device.split(",")]
    with Session(_load(bundle), names, strict=strict) as session:
        with console.status(f"running on {session.device.name}"):
            outputs = session.run(arrays, task)
        _write_arrays(output, outputs)
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
    queue: Annotated[int, typer.Option(help="most requests accepted at a time")] = 16,
    max_body: Annotated[float, typer.Option(help="longest request body, MiB")] = 16.0,
) -> None:
    """Answer inference requests over HTTP (Open Inference Protocol) until SIGTERM."""
    from moesaic.host.serving.limits import Limits
    from moesaic.host.serving.server import Server, address_of, bind
    from moesaic.host.session import Session

    if queue < 1 or not 0 < max_body <= 1024:
        raise UserError("--queue must be at least 1 and --max-body above 0 and at most 1024")
    limits = Limits(queue=queue, body_bytes=int(max_body * (1 << 20)))
    names = [name.strip() for name in device.split(",")]
    loaded = _load(bundle)
    # The port first, for opening a device can take minutes.
    with bind(host, port) as listener:
        with console.status("opening devices"):
            session = Session(loaded, names, queue_frames=queue)
        with session:
            tasks, url = ", ".join(loaded.tasks), address_of(listener)
            line = f"serving {tasks} on {url}, device {session.device.name}"
            server = Server(
                session, limits, lambda: console.print(line, soft_wrap=True, markup=False)
            )
            server.run(sockets=[listener])
    console.print("all accepted requests are answered")


@app.command()
def targets(as_json: JsonOption = False) -> None:
    """List the architecture presets."""
    from moesaic.spec.arch import PRESETS

    if as_json:
        print(json.dumps({name: arch.to_dict() for name, arch in PRESETS.items()}, indent=1))
        return
    table = Table(title="targets")
    for column in ("name", "array", "lanes", "weight ports", "ring", "activations", "for"):
        table.add_column(column)
    for name, arch in PRESETS.items():
        table.add_row(
            name,
            f"{arch.depth}x{arch.width}{' packed' if arch.packed else ''}",
            str(arch.lanes),
            f"{arch.weight_ports} x {8 * arch.weight_port_bytes} bit",
            f"{arch.ring_bytes >> 10} KiB",
            f"{arch.activation_bytes >> 10} KiB",
            arch.device,
        )
    out.print(table)


def main() -> None:
    """Entry point: like the app, with errors as one sentence: the user's (2), a device's (1)."""
    from moesaic.host.driver import DeviceError
    from moesaic.host.transport import TransportError

    try:
        app(standalone_mode=True)
    except (UserError, DeviceError, TransportError) as error:
        console.print(
            f"moesaic: {error}", style="red", soft_wrap=True, markup=False, highlight=False
        )
        sys.exit(error.exit_code if isinstance(error, UserError) else 1)


if __name__ == "__main__":
    main()
