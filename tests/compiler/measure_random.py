"""SQNR of random models and of ``nano``: ``python -m tests.compiler.measure_random``.

Prints a table of docs/accuracy.md: at the end of the accelerator over all frames together, and of
the median frame, in which a token that goes to another expert counts for less. Calibrated with 16
frames, measured on 300 others (``nano``: 64). It uses nothing that is newer than the rewrites that
it was made to judge, so it runs in a tree from before them, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.float_reference import run_float
from moesaic.compiler.quant import quantise_tasks
from moesaic.models.m3vit import M3ViT, random_model, trained_model
from moesaic.models.scenes import make_batch, normalise
from moesaic.spec.execute import Executor
from moesaic.spec.hostside import quantise_input
from tests.compiler.quant_models import float_graph
from tests.e2e.conftest import SMALL
from tests.e2e.test_random_models import CONFIGS
from tests.outputs import only_output

SEEN, OTHERS, SCENES = 16, 300, 64
Images = NDArray[np.float32]


def models() -> Iterator[tuple[str, M3ViT, Images, Images]]:
    """Name, model, images to calibrate with, other images."""
    nano = trained_model("nano")
    config = nano.config
    seen, others = (
        normalise(make_batch(range(first, first + count), config.height, config.width).rgb)
        for first, count in ((0, SEEN), (1_000_000_000, SCENES))
    )
    yield "nano", nano, seen, others
    drawn = [(name, CONFIGS[name], 3) for name in CONFIGS]
    drawn += [(f"small, seed {seed}", SMALL, seed) for seed in range(6)]
    for name, config, seed in drawn:
        size = 3, config.height, config.width
        rng = np.random.default_rng(seed)
        seen = rng.normal(size=(SEEN, *size)).astype(np.float32)
        others = np.random.default_rng(100 + seed).normal(size=(OTHERS, *size))
        yield name, random_model(config, seed), seen, others.astype(np.float32)


def main() -> None:
    print("| model | all frames, dB | median frame, dB |\n|---|---|---|")
    for name, model, seen, others in models():
        graphs = {task: float_graph(model, task) for task in model.config.task_names}
        built, _ = quantise_tasks(graphs, dict.fromkeys(graphs, seen))
        whole, median = [], []
        for task, graph in graphs.items():
            exact = run_float(graph, others)
            codes = Executor(built[task]).run(quantise_input(built[task], others))
            found = only_output(built[task], codes).reshape(exact.shape)
            signal, error = (
                np.square(x, dtype=np.float64).reshape(len(others), -1).sum(1)
                for x in (exact, exact - found)
            )
            whole.append(10 * np.log10(signal.sum() / error.sum()))
            median.append(np.median(10 * np.log10(signal / error)))
        figures = (", ".join(f"{x:.1f}" for x in column) for column in (whole, median))
        print(f"| {name} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
