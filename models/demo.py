"""The demo: a trained two-task model from ONNX to simulated gateware and painted results.

Runs the project's own commands one after the other, as a user would, and reports what they
measured. ``build/demo`` gets ``report.png``, ``report.html``, ``summary.json`` and all files in
between.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.progress import track

from moesaic.models.commands import interruptible, module, moesaic, run_step
from moesaic.models.picture import draw
from moesaic.models.report import Results, print_tables, summarise

TASKS = ("seg", "depth")
CHECKPOINT = Path(__file__).with_name("checkpoints") / "nano.pt"


def predict_float(model: Path, images: np.ndarray) -> np.ndarray:
    """ONNX Runtime's outputs for all images."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    frames = track(images, f"float {model.stem}", transient=True)
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in frames])


def build_and_run(console: Console, folder: Path, target: str, scenes: int) -> Results:
    """All steps up to the figures; ``scenes`` held-out scenes run on the gateware."""
    onnx, bundle = folder / "onnx", folder / "bundle"
    export = module("models.export", "--preset", "nano", "--checkpoint", CHECKPOINT, "--out", onnx)
    run_step(console, "export both tasks as ONNX, draw scenes", export)
    models = [f"{task}={onnx / task}.onnx" for task in TASKS]
    calibration = ("--calibrate", onnx / "calibration.npz")
    run_step(
        console,
        f"compile and calibrate for target {target}",
        moesaic("compile", *models, "--target", target, *calibration, "-o", bundle),
    )
    generate = module("hw.generate", "--target", target, "-o", f"build/rtl/{target}")
    run_step(console, "generate Verilog", generate)
    verdict = run_step(
        console,
        "build the simulator, verify RTL against the integer reference",
        moesaic("verify", bundle, "--json"),
    )
    heldout = dict(np.load(onnx / "heldout.npz"))
    inputs = {"all": heldout["image"], "rtl": heldout["image"][:scenes]}
    for name, images in inputs.items():
        np.savez(folder / f"{name}.npz", image=images)
    outputs: dict[str, dict[str, np.ndarray]] = {}
    statistics: dict[str, Any] = {}
    for task in TASKS:
        files = {name: folder / f"{task}_{name}.npz" for name in ("rtl", "integer")}
        stats = folder / f"{task}_stats.json"
        run_step(
            console,
            f"simulate {task} on {scenes} held-out scenes",
            moesaic("simulate", bundle, "--task", task, "--input", folder / "rtl.npz",
                    "--output", files["rtl"], "--stats", stats),
        )  # fmt: skip
        run_step(
            console,
            f"run {task} in integers on {len(heldout['image'])} scenes",
            moesaic("run", bundle, "--task", task, "--device", "cpu", "--input",
                    folder / "all.npz", "--output", files["integer"]),
        )  # fmt: skip
        outputs[task] = {name: np.load(path)[task] for name, path in files.items()}
        outputs[task]["float"] = predict_float(onnx / f"{task}.onnx", heldout["image"])
        statistics[task] = json.loads(stats.read_text())
    report = json.loads(
        run_step(console, "inspect the bundle", moesaic("inspect", bundle, "--json"))
    )
    page = moesaic("report", bundle, "-o", folder / "report.html")
    run_step(console, "show the bundle as a page", page)
    flips = {
        task: report["tasks"][task]["quantisation"]["routing_flips"] for task in report["tasks"]
    }
    return Results(heldout, outputs, statistics, json.loads(verdict), flips)


def main() -> None:
    """Command line: ``python -m moesaic.models.demo``."""
    parser = argparse.ArgumentParser(description="trained model to gateware to pictures")
    parser.add_argument("--target", default="nano")
    parser.add_argument("--scenes", type=int, default=8, help="held-out scenes for the gateware")
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    arguments = parser.parse_args()
    console, started = Console(), time.monotonic()
    console.print(f"[bold]Moesaic demo[/bold]: M3ViT nano on target {arguments.target}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = build_and_run(console, arguments.out, arguments.target, arguments.scenes)
    summary = summarise(results)
    summary["seconds"] = time.monotonic() - started
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=1))
    draw(results, summary, arguments.out / "report.png")
    print_tables(console, summary)
    console.print(f"wrote {arguments.out}/report.png, report.html and summary.json")
    if not summary["bit_exact"]:
        raise SystemExit("demo: RTL and integer reference differ")


if __name__ == "__main__":
    interruptible(main)
