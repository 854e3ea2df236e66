"""Measures how fast torch devices run a bundle: ``python -m moesaic.host.benchmark BUNDLE``.

Calls go through the device as a session makes them, codes in and codes out; quantising inputs and
scaling outputs, which the host does for every device, is not included.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from moesaic.host import pool
from moesaic.host.failures import DeviceError
from moesaic.host.options import check_option_devices, device_names, parse_options
from moesaic.host.pool import DEVICE_GROUP, Device, DeviceUnavailable
from moesaic.spec.bundle import Bundle, load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.hostside import quantise_input
from moesaic.spec.intgraph import InputCodes

DEVICES = ("cpu", "cuda")
WARM_UP_CALLS = 2
FEWEST_CALLS = 5


@dataclass(frozen=True)
class Measurement:
    """One device, task and number of frames a call; ``seconds`` of every measured call."""

    device: str
    task: str
    batch: int
    seconds: tuple[float, ...]

    @property
    def frames_per_second(self) -> float:
        """Frames of all calls over the time of all calls."""
        return self.batch * len(self.seconds) / sum(self.seconds)

    def percentile(self, share: float) -> float:
        """Latency of a call, in seconds, that ``share`` per cent of the calls stay within."""
        return float(np.percentile(self.seconds, share))


def describe(device: Device) -> str:
    """Which hardware a device is, and what runs on it."""
    import torch

    if device.name == "cuda":
        return f"cuda: {torch.cuda.get_device_name()}, torch {torch.__version__}"
    model = "processor"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # no Linux, or an architecture that does not say
    kernels, threads = getattr(device, "kernels", "torch"), getattr(device, "threads", 1)
    return f"cpu: {model}, {kernels} kernels, {threads} threads, torch {torch.__version__}"


def open_device(name: str, bundle: Bundle, options: Mapping[str, Any]) -> Device:
    """A device of :data:`DEVICES`.

    Raises
    ------
    UserError
        It has no such option.
    DeviceUnavailable
        It is not there.
    """
    (point,) = entry_points(group=DEVICE_GROUP, name=name)
    return pool.open_device(name, point.load(), bundle, options)


def make_frames(bundle: Bundle, task: str, batch: int) -> InputCodes:
    """The bundle's sample inputs, repeated to [batch, patches, inputs] codes.

    Samples and not noise: the time depends on how tokens spread over experts.

    Raises
    ------
    UserError
        The bundle has no samples.
    """
    samples = bundle.sample(task, "input")
    return quantise_input(bundle.graphs[task], np.resize(samples, (batch, *samples.shape[1:])))


def measure(device: Device, task: str, frames: InputCodes, seconds: float) -> Measurement:
    """Call the device for about ``seconds``, at least :data:`FEWEST_CALLS` times.

    A call returns codes in host memory, so its end is the end of all work on the device.
    """
    for _ in range(WARM_UP_CALLS):
        device.run(task, frames)
    times: list[float] = []
    while len(times) < FEWEST_CALLS or sum(times) < seconds:
        started = time.perf_counter()
        device.run(task, frames)
        times.append(time.perf_counter() - started)
    return Measurement(device.name, task, len(frames), tuple(times))


def make_table(measurements: Sequence[Measurement]) -> Table:
    """One row per measurement."""
    table = Table("device", "task")
    for column in ("frames a call", "calls", "frames/s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for row in measurements:
        table.add_row(
            row.device,
            row.task,
            str(row.batch),
            str(len(row.seconds)),
            f"{row.frames_per_second:.1f}",
            f"{1000 * row.percentile(50):.2f}",
            f"{1000 * row.percentile(99):.2f}",
        )
    return table


def to_json(measurements: Sequence[Measurement]) -> str:
    """The table's figures for other programs; times in seconds."""
    rows = [
        {
            "device": row.device,
            "task": row.task,
            "batch": row.batch,
            "calls": len(row.seconds),
            "frames_per_second": row.frames_per_second,
            "p50": row.percentile(50),
            "p99": row.percentile(99),
        }
        for row in measurements
    ]
    return json.dumps(rows, indent=1)


def parse_batches(text: str) -> list[int]:
    """Frames per call from ``1,8,32``.

    Raises
    ------
    UserError
        It is no list of positive numbers.
    """
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"--batch must be positive numbers with commas between, not {text!r}")
    return [int(part) for part in parts]


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Measure and print.

    Raises
    ------
    UserError
        The bundle, a device, a task or a number is wrong.
    DeviceError
        A device failed, or none is there; of several, one that is not there is left out.
    """
    bundle = load_bundle(arguments.bundle)
    tasks = [bundle.task(arguments.task)] if arguments.task else sorted(bundle.graphs)
    batches = parse_batches(arguments.batch)
    names = device_names(arguments.device)
    for name in names:
        if name not in DEVICES:
            raise UserError(f"device must be one of {', '.join(DEVICES)}, not {name!r}")
    options = parse_options(arguments.option)
    check_option_devices(options, names, DEVICES)
    devices, missing = [], []
    for name in names:
        try:
            devices.append(open_device(name, bundle, options.get(name, {})))
        except DeviceUnavailable as error:
            missing.append(f"device {name} is left out: {error}")
    if not devices:
        raise DeviceError("; ".join(missing))
    for line in missing:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    measurements = []
    for device in devices:
        console.print(describe(device), markup=False, highlight=False, soft_wrap=True)
        for task, batch in product(tasks, batches):
            frames = make_frames(bundle, task, batch)
            with console.status(f"{device.name}, {task}, {batch} frames a call ..."):
                measurements.append(measure(device, task, frames, arguments.seconds))
        device.close()
    if arguments.json:
        print(to_json(measurements))
    else:
        console.print(make_table(measurements))


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; errors are one sentence and exit code 2 (the user's) or 1 (a device's)."""
    parser = argparse.ArgumentParser(
        prog="python -m moesaic.host.benchmark", description="frames per second of torch devices"
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--device", default="cpu", help="names with commas between: cuda,cpu")
    parser.add_argument(
        "--option", action="append", default=[], metavar="DEVICE.NAME=VALUE", help="cpu.threads=4"
    )
    parser.add_argument("--batch", default="1,8,32", help="frames a call, commas between")
    parser.add_argument("--task", help="measure this task only")
    parser.add_argument("--seconds", type=float, default=5.0, help="per row of the table")
    parser.add_argument("--json", action="store_true", help="the figures alone, for programs")
    try:
        arguments = parser.parse_args(argv)
        run(arguments, Console(stderr=arguments.json))
    except (UserError, DeviceError) as error:
        print(f"moesaic benchmark: {error}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        print("moesaic benchmark: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
