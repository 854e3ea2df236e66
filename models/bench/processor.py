"""The device `cpu` against ONNX Runtime: ``python -m moesaic.models.bench.processor``.

Both run the same models on this machine: Moesaic its integers, ONNX Runtime the float file and two
files that its own quantiser makes of it. A frame is a call of ONNX Runtime, whose files have a
batch of one. Writes ``processor.json`` and prints the table. Exits with 1 if a goal is not met.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table

from moesaic.models.bench import tables
from moesaic.models.bench.cases import NANO, TINY, Model
from moesaic.models.bench.goals import Goal, at_most
from moesaic.models.bench.measure import Bench, Row
from moesaic.models.commands import module, run_step
from moesaic.models.config import preset

MODELS = {"nano": (NANO, "nano"), "tiny": (TINY, "zcu102")}
"""Model and target by the name of the size."""
BATCHES, THREADS = (1, 8), (1, 2)
FILES = ("float", "dynamic int8", "static int8")
MOST_OF_FLOAT, MOST_OF_INT8 = 1.5, 1.0
WARM_UP_CALLS, FEWEST_CALLS = 3, 5


class _Scenes(CalibrationDataReader):
    """Calibration frames one by one, as the quantiser asks for them."""

    def __init__(self, frames: np.ndarray) -> None:
        self._left = iter(frames)

    def get_next(self) -> dict[str, np.ndarray] | None:
        frame = next(self._left, None)
        return None if frame is None else {"image": frame[None]}


def quantise(model: Path, frames: np.ndarray, folder: Path) -> dict[str, Path]:
    """The files of :data:`FILES`: the model itself, its weights alone in int8, and all of it.

    Parameters
    ----------
    model
        Float ONNX file with the input ``image``.
    frames
        Calibration, float32 [n, 3, height, width].
    folder
        Where files go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ready, dynamic, static = (folder / f"{name}.onnx" for name in ("ready", "dynamic", "static"))
    quant_pre_process(str(model), str(ready), skip_symbolic_shape=True)
    quantize_dynamic(str(ready), str(dynamic), weight_type=QuantType.QInt8)
    quantize_static(str(ready), str(static), _Scenes(frames))
    return dict(zip(FILES, (model, dynamic, static), strict=True))


def time_file(file: Path, frame: np.ndarray, batch: int, threads: int, seconds: float) -> float:
    """Median seconds of ``batch`` frames [1, 3, height, width] in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    times: list[float] = []
    for call in range(10**9):
        started = time.perf_counter()
        for _ in range(batch):
            session.run(None, {"image": frame})
        if call >= WARM_UP_CALLS:
            times.append(time.perf_counter() - started)
        if len(times) >= FEWEST_CALLS and sum(times) >= seconds:
            break
    return float(np.median(times))


@contextmanager
def busy(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Meanwhile ``count`` other processes compute without a pause."""
    # They end with this process, however it ends.
    program = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    command = [sys.executable, "-c", program]
    others = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield others
    finally:
        for other in others:
            other.kill()
            other.wait()


class Contest:
    """The files and the bundle of one size, and their times.

    Parameters
    ----------
    bench
        Makes models and bundles.
    size
        A name of :data:`MODELS`.
    seconds
        That every figure is measured for.
    """

    def __init__(self, bench: Bench, size: str, seconds: float) -> None:
        model, target = MODELS[size]
        self._bench, self._size, self._seconds = bench, size, seconds
        self._task = preset(model.preset).task_names[0]
        self._bundle = bench.compile(model, target)
        self._files, self._frame = self._quantise(model)

    def _quantise(self, model: Model) -> tuple[dict[str, Path], np.ndarray]:
        source = self._bench.export(model)
        with np.load(source / "calibration.npz") as arrays:
            frames = arrays["image"].astype(np.float32)
        folder = self._bench.folder / "quantised" / model.key
        return quantise(source / f"{self._task}.onnx", frames[:8], folder), frames[:1]

    def _moesaic(self, threads: int) -> dict[int, float]:
        """Median seconds by batch."""
        batches = ",".join(map(str, BATCHES))
        command = module("host.benchmark", self._bundle, "--task", self._task, "--json")
        command += ["--batch", batches, "--seconds", str(self._seconds)]
        command += ["--option", f"cpu.threads={threads}"]
        title = f"cpu, {self._size}, {threads} threads"
        rows = json.loads(run_step(self._bench.console, title, command))
        return {row["batch"]: row["p50"] for row in rows}

    def rows(self, others: int) -> list[Row]:
        """A row per number of threads and batch, beside ``others`` busy processes."""
        result = []
        for threads in THREADS:
            with busy(others):
                ours = self._moesaic(threads)
                for batch in BATCHES:
                    row: dict[str, Any] = {"model": self._size, "batch": batch, "threads": threads}
                    row |= {"busy": others, "cpu": ours[batch]}
                    for name, file in self._files.items():
                        row[name] = time_file(file, self._frame, batch, threads, self._seconds)
                    result.append(row)
        return result


def make_table(rows: list[Row]) -> Table:
    """Medians in ms."""
    table = Table("model", "machine", title="milliseconds a call: device cpu and ONNX Runtime")
    for column in ("threads", "frames", "cpu", *FILES):
        table.add_column(column, justify="right")
    for row in rows:
        state = f"{row['busy']} busy processes" if row["busy"] else "idle"
        times = (f"{1000 * row[name]:,.2f}" for name in ("cpu", *FILES))
        table.add_row(row["model"], state, str(row["threads"]), str(row["batch"]), *times)
    return table


def judge(rows: list[Row]) -> list[Goal]:
    """A frame of ``nano`` against float, every call of ``tiny`` against int8, on an idle machine
    and one thread each."""
    goals = []
    for row in rows:
        if row["busy"] or row["threads"] > 1:
            continue
        what = f"{row['model']}, {row['batch']} frames: time of cpu as a share of ONNX Runtime's"
        if row["model"] == "nano" and row["batch"] == 1:
            goals.append(at_most(f"{what} float", row["cpu"] / row["float"], MOST_OF_FLOAT))
        if row["model"] == "tiny":
            fastest = min(row[name] for name in FILES if "int8" in name)
            goals.append(at_most(f"{what} int8", row["cpu"] / fastest, MOST_OF_INT8))
    return goals


def contest(bench: Bench, sizes: list[str], seconds: float) -> list[Row]:
    """All rows of ``sizes``, on the machine as it is and with all of its processors busy."""
    made = [Contest(bench, size, seconds) for size in sizes]
    return [
        row for part in made for others in (0, os.cpu_count() or 1) for row in part.rows(others)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m moesaic.models.bench.processor", description=__doc__
    )
    parser.add_argument("--models", default=",".join(MODELS), help="only these sizes")
    parser.add_argument("--seconds", type=float, default=2.0, help="that each figure is measured")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args(arguments)
    sizes = options.models.split(",")
    if unknown := sorted(set(sizes) - set(MODELS)):
        raise SystemExit(f"--models must be among {', '.join(MODELS)}, not {', '.join(unknown)}")
    console = Console(width=max(Console().width, 110))
    rows = contest(Bench(console, options.out), sizes, options.seconds)
    (options.out / "processor.json").write_text(json.dumps(rows, indent=1) + "\n")
    console.print(make_table(rows))
    judged = judge(rows)
    console.print(tables.goals(judged))
    return 0 if all(goal.met for goal in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
