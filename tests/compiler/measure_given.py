"""Given steps beside ONNX Runtime: python -m tests.compiler.measure_given nano|deit-t.

Quantises a float file with ``quantize_static``, compiles it to integers, and says by how much both
differ and why. As in docs/numerics.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moesaic.compiler.frontend import load_graph
from moesaic.compiler.frontend.load import read_model
from moesaic.compiler.quant import quantise
from moesaic.compiler.quant.given import given_steps
from moesaic.models.config import M3ViTConfig
from moesaic.models.export import export_onnx
from moesaic.models.m3vit import random_model, trained_model
from moesaic.models.scenes import HELDOUT_SEED, make_batch
from moesaic.spec.execute import Executor
from moesaic.spec.hostside import quantise_input
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.metrics import sqnr_db
from tests.compiler.qdq import own_ways, quantise_file, run, without
from tests.outputs import only_output


@dataclass
class Row:
    """Quantisers of the file that the accelerator has not."""

    cause: str
    count: int
    alone: float
    """The file with these and no others, against the float file."""
    rest: float = 0.0
    """Integers against the file without these and without all rows above."""


@dataclass
class Comparison:
    """One quantised file, run by ONNX Runtime and in integers; all in dB but shares."""

    runtime_to_float: float
    integers_to_float: float
    integers_to_runtime: float
    equal: float
    """Share of the output's 8-bit codes that are equal."""
    rows: list[Row]
    """What the accelerator does its own way, worst first."""
    shared: list[tuple[str, float]]
    """What both have: alone, against the float file."""
    notes: list[str]


def integers(graph: IntGraph, x: np.ndarray) -> np.ndarray:
    return only_output(graph, Executor(graph).run(quantise_input(graph, x)))


def compare(source: Path, calibration: np.ndarray, x: np.ndarray, folder: Path) -> Comparison:
    """Quantise a float file in `folder` on `calibration`, and compare on `x`, both [n, ...]."""
    path = quantise_file(source, folder / "qdq.onnx", calibration)
    graph = load_graph(path)
    step = given_steps(graph)["output"].step
    quantised, report = quantise(graph, calibration, "default")
    ours, exact, theirs = integers(quantised, x), run(source, x), run(path, x)
    codes = [np.rint(values / step).clip(-128, 127) for values in (ours, theirs)]
    ways, everything = own_ways(path), set(read_model(path).quantisation.activations)
    own = {name for tensors in ways.values() for name in tensors}
    plain = run(without(path, everything), x)

    def alone(tensors: Collection[str]) -> float:
        return sqnr_db(plain, run(without(path, everything - set(tensors)), x))

    rows = [Row(cause, len(tensors), alone(tensors)) for cause, tensors in ways.items()]
    rows.sort(key=lambda row: row.alone)
    left_out: set[str] = set()
    for row in rows:
        left_out |= set(ways[row.cause])
        row.rest = sqnr_db(run(without(path, left_out), x), ours)
    shared = [("weights", sqnr_db(exact, plain)), ("given steps", alone(everything - own))]
    return Comparison(
        sqnr_db(exact, theirs),
        sqnr_db(exact, ours),
        sqnr_db(theirs, ours),
        float((codes[0] == codes[1]).mean()),
        rows,
        shared,
        report.notes,
    )


def nano(path: Path) -> np.ndarray:
    """Export the trained nano; returns scenes that it has not seen."""
    model = trained_model("nano")
    export_onnx(model, "seg", path)
    seeds = range(HELDOUT_SEED, HELDOUT_SEED + 16)
    return make_batch(seeds, model.config.height, model.config.width).image


def deit_t(path: Path) -> np.ndarray:
    """Export a dense transformer of DeiT-T's width and depth on 8 x 8 patches, random weights."""
    config = M3ViTConfig(
        height=128, width=128, patch=16, dim=192, depth=12, heads=3, mlp_ratio=4.0,
        moe_layers="none", attention="sdpa", tasks=(("d", 2),),
    )  # fmt: skip
    export_onnx(random_model(config, seed=0), "d", path)
    return np.random.default_rng(0).standard_normal((16, 3, 128, 128)).astype(np.float32)


MODELS = {"nano": nano, "deit-t": deit_t}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = MODELS[arguments.model](folder / "float.onnx")
        found = compare(folder / "float.onnx", samples[:8], samples[8:], folder)
    for name in ("runtime_to_float", "integers_to_float", "integers_to_runtime"):
        print(f"{name}: {getattr(found, name):.1f} dB")
    print(f"equal output codes: {found.equal:.1%}")
    print(*found.notes, sep="\n")
    for name, alone in found.shared:
        print(f"{name} alone, against the float file: {alone:.1f} dB")
    print("| done in its own way | quantisers | alone | left |\n|---|---|---|---|")
    for row in found.rows:
        print(f"| {row.cause} | {row.count} | {row.alone:.1f} | {row.rest:.1f} |")


if __name__ == "__main__":
    main()
