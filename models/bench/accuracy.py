"""Weights of four bits on trained models: ``python -m moesaic.models.bench.accuracy``, minutes for
``nano``, half an hour for ``tiny``.

Each model is compiled with weights of eight bits, with experts in four, with all in four, and with
what ``auto`` leaves in eight to keep a budget of decibels; then the integers run on held-out scenes
with labels. Writes ``accuracy.json`` and prints the table. Exits with 1 if a goal is not met.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from moesaic.models.bench import tables
from moesaic.models.bench.cases import Model
from moesaic.models.bench.goals import Goal, at_least, at_most
from moesaic.models.bench.measure import Bench, Row
from moesaic.models.commands import moesaic, run_step
from moesaic.models.config import PRESETS, preset
from moesaic.models.demo import predict_float
from moesaic.models.metrics import depth_rmse, mean_iou, sqnr_db

TARGET = "zcu102"
"""Takes weights of four bits. Integers are the same on any target that does."""
BUDGET_DB = 30.0
"""What ``auto`` keeps, on the samples that the compiler sets aside."""
FORMS: dict[str, tuple[str, ...]] = {
    "8 bits": (),
    "experts in 4": ("--experts", "4"),
    "all in 4": ("--weights", "4"),
    f"auto, {BUDGET_DB:g} dB": ("--weights", "auto", "--min-sqnr", str(BUDGET_DB)),
}
"""What ``compile`` is told, by the name of the row."""
AUTO = list(FORMS)[-1]
MOST_LOST_MIOU, MOST_MORE_RMSE = 0.005, 0.002
"""With experts in four bits, against float."""


class Trained:
    """A trained model's files, labels and float outputs.

    Parameters
    ----------
    bench
        Makes the files.
    name
        Of a preset with a checkpoint.
    """

    def __init__(self, bench: Bench, name: str) -> None:
        self._bench, self.name = bench, name
        self.folder = bench.export(Model(name))
        self.tasks = preset(name).task_names
        with np.load(self.folder / "heldout.npz") as arrays:
            self.images = arrays["image"]
            self.labels = {task: arrays[task] for task in self.tasks}
        np.savez(self.folder / "images.npz", image=self.images)
        self.floats = {
            task: predict_float(self.folder / f"{task}.onnx", self.images) for task in self.tasks
        }

    def _merit(self, task: str, outputs: np.ndarray) -> float:
        """mIoU of classes, RMSE of depth."""
        if task == "seg":
            return mean_iou(outputs.argmax(1), self.labels[task], outputs.shape[1])
        return depth_rmse(outputs, self.labels[task])

    def in_float(self) -> Row:
        """The row that others are compared with."""
        merits = {task: self._merit(task, self.floats[task]) for task in self.tasks}
        return {"model": self.name, "weights": "float", "merit": merits}

    def row(self, form: str) -> Row:
        """Compile in a form of :data:`FORMS` and measure it."""
        kind = f"{self.name}, {form}"
        bundle = self._bench.folder / "bundles" / f"{self.name}-{'-'.join(FORMS[form]) or 'plain'}"
        models = [f"{task}={self.folder / task}.onnx" for task in self.tasks]
        command = moesaic("compile", *models, "--target", TARGET, "-o", bundle, *FORMS[form])
        command += ["--calibrate", str(self.folder / "calibration.npz")]
        run_step(self._bench.console, f"compile {kind}", command)
        report = json.loads(
            run_step(self._bench.console, f"inspect {kind}", moesaic("inspect", bundle, "--json"))
        )
        row: dict[str, Any] = {"model": self.name, "weights": form}
        row |= {"kept_db": {}, "sqnr_db": {}, "merit": {}, "bytes": {}}
        for task in self.tasks:
            file = self._bench.folder / "integers.npz"
            run = moesaic("run", bundle, "--task", task, "--device", "cpu", "--output", file)
            run += ["--input", str(self.folder / "images.npz")]
            run_step(self._bench.console, f"run {task}, {kind}", run)
            with np.load(file) as arrays:
                outputs = arrays[task]
            about = report["tasks"][task]
            row["kept_db"][task] = about["sqnr_db"]
            row["sqnr_db"][task] = sqnr_db(self.floats[task], outputs)
            row["merit"][task] = self._merit(task, outputs)
            row["bytes"][task] = sum(part["bytes"] for part in about["weights"].values())
        return row


def judge(rows: list[Row]) -> list[Goal]:
    """What experts in four bits may lose, and the budget of ``auto``."""
    goals = []
    floats = {row["model"]: row["merit"] for row in rows if row["weights"] == "float"}
    for row in rows:
        name, exact = row["model"], floats[row["model"]]
        if row["weights"] == "experts in 4":
            lost = exact["seg"] - row["merit"]["seg"]
            goals.append(at_most(f"{name}, experts in 4: mIoU lost", lost, MOST_LOST_MIOU))
            more = row["merit"]["depth"] - exact["depth"]
            goals.append(at_most(f"{name}, experts in 4: more RMSE", more, MOST_MORE_RMSE))
        if row["weights"] == AUTO:
            kept = min(row["kept_db"].values())
            goals.append(at_least(f"{name}, auto: dB of its worst task", kept, BUDGET_DB))
    return goals


def make_table(rows: list[Row]) -> Table:
    """A row per model and form, tasks beside each other."""
    table = Table("model", "weights", title="weights of four bits, held-out scenes")
    for column in ("mIoU", "RMSE", "SQNR, dB", "kept aside, dB", "MB of codes"):
        table.add_column(column, justify="right")

    def each(row: Row, key: str, shown: str, unit: float = 1.0) -> str:
        return ", ".join(shown.format(value / unit) for value in row.get(key, {}).values())

    for row in rows:
        table.add_row(
            row["model"],
            row["weights"],
            f"{row['merit']['seg']:.4f}",
            f"{row['merit']['depth']:.4f}",
            each(row, "sqnr_db", "{:.1f}"),
            each(row, "kept_db", "{:.1f}"),
            each(row, "bytes", "{:.2f}", 1e6),
        )
    table.caption = (
        "segmentation, depth; SQNR over the held-out scenes, and over the calibration samples that"
        " the compiler keeps aside, which auto goes by"
    )
    return table


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m moesaic.models.bench.accuracy", description=__doc__
    )
    parser.add_argument("--models", default=",".join(PRESETS), help="only these sizes")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args(arguments)
    names = options.models.split(",")
    if unknown := sorted(set(names) - set(PRESETS)):
        raise SystemExit(f"--models must be among {', '.join(PRESETS)}, not {', '.join(unknown)}")
    console = Console(width=max(Console().width, 110))
    bench = Bench(console, options.out)
    rows: list[Row] = []
    for name in names:
        trained = Trained(bench, name)
        rows.append(trained.in_float())
        for form in FORMS:
            rows.append(trained.row(form))
            _write(options.out, rows)  # the next one may take long
    console.print(make_table(rows))
    judged = judge(rows)
    console.print(tables.goals(judged))
    return 0 if all(goal.met for goal in judged) else 1


def _write(folder: Path, rows: list[Row]) -> None:
    goals = [dataclasses.asdict(goal) for goal in judge(rows)]
    text = json.dumps({"rows": rows, "goals": goals}, indent=1) + "\n"
    (folder / "accuracy.json").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
