"""Measures a server under load: ``python -m moesaic.host.serving.benchmark BUNDLE``.

`moesaic serve` runs once for each way of joining requests, in processes of their own; clients are
threads of this process with a connection each, who ask again as soon as they have their answer.
One server is asked at a time, and all of them in turn in every round, so that what else the machine
does meets them alike. Every answer is compared with the first one to a request alone: other bits
are a failure.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from moesaic.host.failures import DeviceError
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.models import SEPARATOR
from moesaic.host.serving.protocol import HEADER_LENGTH
from moesaic.host.sides import HostSides
from moesaic.spec.bundle import Bundle, load_bundle
from moesaic.spec.errors import UserError

Models = tuple[str, ...]
"""What a client asks for about each of its images, one request behind the other."""
_ANSWER_SECONDS = 600.0


@dataclass(frozen=True)
class Joining:
    """How a server joins requests: ``--batch`` and ``--batch-wait-ms``."""

    frames: int
    wait_ms: float


@dataclass(frozen=True)
class Load:
    """What some clients saw: ``seconds`` of each image, in ``duration`` seconds, for which the
    device got ``frames`` in ``calls``."""

    joining: Joining
    models: Models
    clients: int
    seconds: tuple[float, ...]
    duration: float
    frames: float
    calls: float

    @property
    def images_per_second(self) -> float:
        """Of all clients."""
        return len(self.seconds) / self.duration

    def percentile(self, share: float) -> float:
        """Seconds that ``share`` per cent of the images stay within."""
        return float(np.percentile(self.seconds, share))

    def to_dict(self) -> dict[str, Any]:
        """The figures of the table, times in seconds."""
        return {
            "models": self.models,
            "clients": self.clients,
            "batch": self.joining.frames,
            "batch_wait_ms": self.joining.wait_ms,
            "images_per_second": self.images_per_second,
            "p50": self.percentile(50),
            "p99": self.percentile(99),
            "frames_per_call": self.frames / self.calls,
        }

    def __add__(self, later: Load) -> Load:
        """The same load in two rounds."""
        return replace(
            self,
            seconds=self.seconds + later.seconds,
            duration=self.duration + later.duration,
            frames=self.frames + later.frames,
            calls=self.calls + later.calls,
        )


class Requests:
    """Requests about the bundle's samples, in binary form, and the answers that they must get."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._bits: dict[tuple[str, int], bytes] = {}

    def ask(self, connection: http.client.HTTPConnection, model: str, number: int) -> bytes:
        """Ask about an image, and check the answer.

        Raises
        ------
        DeviceError
            The server refuses, or answers other bits than before.
        """
        tasks = model.split(SEPARATOR)
        bits = self._ask(connection, model, tasks[0], number)
        known = [self._bits.get((task, number)) for task in tasks]
        if len(tasks) == 1 and known[0] is None:
            self._bits[model, number] = bits
        elif b"".join(filter(None, known)) != bits:
            raise DeviceError(f"the answer of {model} to image {number} has other bits than before")
        return bits

    def images(self, task: str) -> tuple[str, NDArray[np.float32]]:
        """A task's input, and samples of it [images, ...].

        Raises
        ------
        UserError
            The bundle has none.
        """
        ((name, shape),) = self._bundle.inputs(task).items()
        samples = self._bundle.sample(task, "input")
        if samples.shape[1:] != tuple(shape[1:]):
            raise UserError(f"task {task} has a front on the host, and the bundle no samples of it")
        return name, samples

    def _ask(
        self, connection: http.client.HTTPConnection, model: str, task: str, number: int
    ) -> bytes:
        name, samples = self.images(task)
        x = np.ascontiguousarray(samples[number % len(samples)][None], "<f4")
        size = {"binary_data_size": x.nbytes}
        tensor = {"name": name, "datatype": "FP32", "shape": list(x.shape), "parameters": size}
        message = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        text = json.dumps(message).encode()
        length = {HEADER_LENGTH: str(len(text))}
        path = f"/v2/models/{model}/infer"
        try:
            connection.request("POST", path, text + x.tobytes(), length)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise DeviceError(f"the server gave no answer: {error or type(error)}") from error
        if response.status != 200:
            raise DeviceError(f"the server answers {response.status}: {body.decode()}")
        return body[int(response.headers[HEADER_LENGTH]) :]


@contextmanager
def serving(bundle: Path, joining: Joining, queue: int, options: Sequence[str]) -> Iterator[int]:
    """Run the command; gives its port.

    Raises
    ------
    DeviceError
        It does not start.
    """
    command = [sys.executable, "-m", "moesaic.cli", "serve", str(bundle), "--port", "0"]
    command += ["--batch", str(joining.frames), "--batch-wait-ms", str(joining.wait_ms)]
    # A client that has its first image waits for the slowest one's.
    command += ["--queue", str(queue), "--idle-timeout", f"{_ANSWER_SECONDS:g}"]
    command += ["--log-format", "json", *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        line = server.stderr.readline()
        if not line.startswith("{"):
            server.wait()
            raise DeviceError(f"the server does not start: {line.strip()}")
        # It says little more; what it says must not fill the pipe.
        threading.Thread(target=server.stderr.read, daemon=True).start()
        yield int(json.loads(line)["url"].rpartition(":")[2])
    finally:
        server.terminate()
        server.wait()


def _calls(port: int) -> tuple[float, float]:
    """Frames and calls of the server's devices until now."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    frames, calls = (
        sum(sample.value for sample in found if sample.name == f"moesaic_batch_frames_{kind}")
        for kind in ("sum", "count")
    )
    return frames, calls


def load(
    port: int, joining: Joining, models: Models, clients: int, seconds: float, requests: Requests
) -> Load:
    """Let clients ask for about ``seconds``, and at least once each behind a first image.

    Raises
    ------
    DeviceError
        The server refuses, or answers other bits than before.
    """
    times: list[float] = []
    faults: list[Exception] = []
    ready, begun = threading.Barrier(clients + 1), threading.Event()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)

        def image() -> float:
            before = time.perf_counter()
            for model in models:
                requests.ask(connection, model, number)
            return time.perf_counter() - before

        try:
            image()
            ready.wait()
            begun.wait()
            end = time.perf_counter() + seconds
            times.append(image())
            while time.perf_counter() < end:
                times.append(image())
        except Exception as error:
            faults.append(error)
            ready.abort()
        finally:
            connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        ready.wait()
    except threading.BrokenBarrierError:
        pass  # said below
    before, started = _calls(port), time.perf_counter()
    begun.set()
    for thread in threads:
        thread.join()
    duration = time.perf_counter() - started
    for fault in faults:
        if not isinstance(fault, threading.BrokenBarrierError):
            raise fault
    frames, calls = (now - then for now, then in zip(_calls(port), before, strict=True))
    return Load(joining, models, clients, tuple(times), duration, frames, calls)


def choose_models(bundle: Bundle) -> list[Models]:
    """A task alone; and, of tasks that share an input, one by one and together."""
    group = max(HostSides(bundle).groups(list(bundle.tasks)), key=len)
    alone: list[Models] = [(group[0],)]
    return alone if len(group) == 1 else [*alone, group, (SEPARATOR.join(group),)]


def make_table(loads: Sequence[Load]) -> Table:
    """One row per load."""
    table = Table("an image", "clients", "batch", "wait ms")
    for column in ("images/s", "p50 ms", "p99 ms", "frames a call"):
        table.add_column(column, justify="right")
    for row in loads:
        table.add_row(
            ", then ".join(row.models),
            str(row.clients),
            str(row.joining.frames),
            f"{row.joining.wait_ms:g}",
            f"{row.images_per_second:.1f}",
            f"{1000 * row.percentile(50):.1f}",
            f"{1000 * row.percentile(99):.1f}",
            f"{row.frames / row.calls:.2f}",
        )
    return table


def _numbers(option: str, text: str, kind: Callable[[str], float], least: float) -> list[float]:
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(least <= number < float("inf") for number in found):
        raise UserError(f"{option} must be numbers from {least:g} on, with commas, not {text!r}")
    return found


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Measure and print.

    Raises
    ------
    UserError
        The bundle or a number is wrong.
    DeviceError
        A server does not start, refuses, or answers wrong bits.
    """
    clients = [int(n) for n in _numbers("--clients", arguments.clients, int, 1)]
    batches = [int(n) for n in _numbers("--batch", arguments.batch, int, 1)]
    waits = _numbers("--batch-wait-ms", arguments.batch_wait_ms, float, 0)
    bundle = load_bundle(arguments.bundle)
    requests = Requests(bundle)
    options = ["--device", arguments.device]
    for option in arguments.option:
        options += ["--option", option]
    if arguments.rounds < 1:
        raise UserError("--rounds must be at least 1")
    chosen = choose_models(bundle)
    for task in {task for models in chosen for task in SEPARATOR.join(models).split(SEPARATOR)}:
        requests.images(task)
    queue = max(Limits.queue, *clients)
    joinings = [Joining(n, wait) for n in batches for wait in (waits if n > 1 else [0.0])]
    loads: list[Load] = []
    with ExitStack() as stack:
        ports = {
            joining: stack.enter_context(serving(arguments.bundle, joining, queue, options))
            for joining in joinings
        }
        for models, count in product(chosen, clients):
            _learn(ports[joinings[0]], models, count, requests)
            rows: dict[Joining, Load] = {}
            for number, joining in product(range(arguments.rounds), joinings):
                with console.status(f"{', '.join(models)}, {count} clients, round {number + 1}"):
                    row = load(ports[joining], joining, models, count, arguments.seconds, requests)
                rows[joining] = rows[joining] + row if joining in rows else row
            loads += rows.values()
    if arguments.json:
        print(json.dumps([row.to_dict() for row in loads], indent=1))
    else:
        console.print(make_table(loads))


def _learn(port: int, models: Models, images: int, requests: Requests) -> None:
    """Ask about each image alone: later answers are compared with these."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    for number in range(images):
        for model in models:
            requests.ask(connection, model, number)
    connection.close()


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; errors are one sentence and exit code 2 (the user's) or 1 (a device's)."""
    parser = argparse.ArgumentParser(
        prog="python -m moesaic.host.serving.benchmark", description="images per second of a server"
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--device", default="cpu", help="devices by preference")
    parser.add_argument(
        "--option", action="append", default=[], metavar="DEVICE.NAME=VALUE", help="cpu.threads=2"
    )
    parser.add_argument("--clients", default="1,2,8", help="clients at a time, commas between")
    parser.add_argument("--batch", default="1,8", help="the server's --batch, commas between")
    parser.add_argument(
        "--batch-wait-ms", default="0", help="the server's --batch-wait-ms, commas between"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="per row and round")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--rounds", type=int, default=3, help="turns of all servers")
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
