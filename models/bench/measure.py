"""Runs the cases through the project's commands and gathers rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from moesaic.models.bench.cases import NARROW, Case, Model
from moesaic.models.commands import module, moesaic, run_step
from moesaic.models.config import preset

Row = dict[str, Any]
_CALIBRATION = 3
"""Scenes that random weights are calibrated on."""


class Bench:
    """A folder of models and bundles, each made once.

    Parameters
    ----------
    console
        Shows every step and how long it took.
    folder
        Where everything goes.
    """

    def __init__(self, console: Console, folder: Path) -> None:
        self.console, self.folder = console, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._bundles: dict[tuple[Model, str, tuple[str, ...]], Path] = {}
        self._models: dict[Model, Path] = {}

    def export(self, model: Model) -> Path:
        """Folder of the model's ONNX files and samples."""
        if model not in self._models:
            folder = self._models[model] = self.folder / "models" / model.key
            command = module("models.export", "--preset", model.preset, "--out", folder)
            if model.random_seed is not None:
                command += ["--random", str(model.random_seed), "--heldout", "1"]
                command += ["--calibration", str(_CALIBRATION)]
            if model.routing is not None:
                command += ["--routing", model.routing]
            run_step(self.console, f"export {model.key}", command)
        return self._models[model]

    def _target(self, name: str) -> str:
        """What ``--target`` takes."""
        if name != NARROW["name"]:
            return name
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(NARROW))
        return str(path)

    def compile(self, model: Model, target: str, options: tuple[str, ...] = ()) -> Path:
        """Bundle of all tasks of a model, with more options of ``moesaic compile``."""
        key = (model, target, options)
        if key not in self._bundles:
            source = self.export(model)
            name = "-".join([model.key, target, *(option.strip("-") for option in options)])
            bundle = self._bundles[key] = self.folder / "bundles" / name
            tasks = [f"{task}={source / task}.onnx" for task in preset(model.preset).task_names]
            samples = ("--calibrate", source / "calibration.npz")
            command = moesaic("compile", *tasks, "--target", self._target(target), *samples)
            command += options
            run_step(
                self.console, f"compile {model.key} for {target}", [*command, "-o", str(bundle)]
            )
        return self._bundles[key]

    def run(self, case: Case) -> list[Row]:
        """Verify, profile and estimate; one row per task.

        The row's figures are those of the first frame, which is the one that is estimated;
        ``frame_cycles`` has the cycles of all of them, ``switch_cycles`` those from the end of the
        task's frame to the first weights of another task.
        """
        bundle = self.compile(case.model, case.target)
        memory = ["--latency", str(case.latency), "--bandwidth", str(case.bandwidth)]
        name = f"{case.model.key} on {case.target}"
        file = self.folder / "stats.json"
        command = moesaic("verify", bundle, "--samples", str(case.samples), "--stats", file)
        command += [*memory, "--json", *(["--task", case.task] if case.task else [])]
        command += ["--switch"] if case.switch else []
        title = f"simulate {name}, latency {case.latency}, bandwidth {case.bandwidth}"
        verdict = json.loads(run_step(self.console, title, command, allowed=(1,)))
        statistics = json.loads(file.read_text())
        estimated = json.loads(
            run_step(
                self.console, f"estimate {name}", moesaic("estimate", bundle, *memory, "--json")
            )
        )
        clock = {key: estimated[key] for key in ("clock_mhz", "clock_source")}
        rows = [
            _row(case, task, found, statistics[task], estimated["tasks"][task]) | clock
            for task, found in verdict["tasks"].items()
        ]
        for row in rows:
            changes = [s for s in verdict.get("switches", []) if s["before"] == row["task"]]
            row["switch_cycles"] = max((change["weights"] for change in changes), default=None)
        return rows

    def resources(self, target: str, family: str) -> dict[str, Any]:
        """Synthesise a target; the report of ``moesaic.hw.resources`` for one family."""
        folder = self.folder / "resources"
        command = module("hw.resources", "--target", target, "--family", family, "--output", folder)
        run_step(self.console, f"synthesise {target} for {family}", command)
        result = json.loads((folder / f"{target}.json").read_text())
        found: dict[str, Any] = result["families"][family]
        return found


def _row(
    case: Case, task: str, verdict: dict[str, Any], stats: dict[str, Any], estimate: dict[str, Any]
) -> Row:
    first = stats["per_frame"][0]
    attention = stats["innovations"]["attention_reordering"]
    return {
        "target": case.target,
        "model": case.model.label,
        "routing": case.model.gates,
        "task": task,
        "latency": case.latency,
        "bandwidth": case.bandwidth,
        "cycles": first["cycles"],
        "frame_cycles": verdict["cycles"],
        "roofline_cycles": first["roofline_cycles"],
        "utilisation": first["utilisation"],
        "estimated_cycles": estimate["cycles"],
        "bit_exact": verdict["bit_exact"],
        "macs": stats["macs"],
        "kinds": first["kinds"],
        "estimated_kinds": estimate["kinds"],
        "layers": stats["layers"],
        "weight_read_bytes": first["weight_read_bytes"],
        "experts_skipped": first["counters"]["EXPERTS_SKIPPED"],
        "imbalance": [layer["imbalance"] for layer in stats["layers"] if "imbalance" in layer],
        "attention_words_per_head": attention["operand_words_per_head"],
        "array_width": attention["parallelism"],
        "simulation_seconds": stats["simulation_seconds"],
    }
