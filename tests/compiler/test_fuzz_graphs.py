"""Files that nobody wrote on purpose: refused in a sentence, or compiled for what they are."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import torch

from moesaic.compiler import ir
from moesaic.compiler.driver import compile
from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.validate.oracle import Oracle
from moesaic.spec.bundle import load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.execute import Executor
from moesaic.spec.hostside import quantise_input
from tests.compiler.graph_strategies import EXAMPLES, Edit, Example
from tests.compiler.validated import read_validated, samples_for
from tests.fuzzing import fuzz
from tests.outputs import only_output

SECONDS = 30.0
"""Longest time for one file."""
CLOSE = 1e-2
"""Largest difference relative to the peak; wrong readings were off by 3 to 30 dB."""


def is_right(graph: ir.Graph, path: Path) -> bool:
    """Compare end to end on inputs that the compiler did not compare; near ties are left out."""
    x = np.concatenate([samples_for(graph, 3, seed=9), 5 * samples_for(graph, 3, seed=8)])
    margins = torch.full((len(x),), np.inf, dtype=torch.float64)
    number = {f"{i}.logits": layer for i, layer in enumerate(graph.layers)}

    def watch(point: str, value: torch.Tensor) -> None:
        layer = number.get(point)
        if isinstance(layer, ir.Moe) and layer.top_k < value.shape[-1]:
            ordered = value.sort(dim=-1, descending=True).values
            gap = ordered[..., layer.top_k - 1] - ordered[..., layer.top_k]
            margins.copy_(torch.minimum(margins, gap.amin(-1) / value.abs().amax()))

    result = run_float(graph, x, watch)
    oracle = Oracle(path, str(path), graph.input_name)
    expected = oracle.run(x, finite=False)[oracle.outputs[0]]
    kept = (margins.numpy() > 1e-4) & np.isfinite(expected.reshape(len(x), -1)).all(1)
    difference = np.abs(result - expected.reshape(result.shape))[kept]
    return not kept.any() or difference.max() <= CLOSE * np.abs(expected).max()


def try_file(example: Example, folder: Path, whole: bool) -> str:
    """Return what became of a file: unwritable, refused, or right; with ``whole``, compiled."""
    try:
        proto = example.proto()
        path = folder / "model.onnx"
        onnx.save(proto, path)
    except (ValueError, TypeError, AssertionError, IndexError):
        return "unwritable"
    started = time.monotonic()
    try:
        graph, _ = read_validated(path)
        if whole:
            given = {graph.input_name: samples_for(graph)}
            compile({"default": path}, "nano", given, folder / "bundle")
    except UserError as error:
        text = str(error)
        assert "\n" not in text and 20 < len(text) < 1500, text
        try:
            load_graph(path)
            found = "misread and refused" if "not recognised for what it is" in text else "refused"
        except UserError:
            found = "refused"
        assert time.monotonic() - started < SECONDS
        return found
    assert time.monotonic() - started < SECONDS
    assert is_right(graph, path), "wrong: accepted as something it is not"
    return "right"


def test_any_file_is_refused_or_right(tmp_path: Path) -> None:
    counts = fuzz("graphs", EXAMPLES, lambda e: try_file(e, tmp_path, whole=False), 60)
    assert counts["right"] and counts["refused"]


def test_any_file_compiles_or_is_refused(tmp_path: Path) -> None:
    counts = fuzz("compiled graphs", EXAMPLES, lambda e: try_file(e, tmp_path, whole=True), 12)
    assert counts["right"]


def test_an_output_without_a_batch_axis_is_compiled_and_opened(tmp_path: Path) -> None:
    """Found by the fuzzer: frames of such an output lost their first axis."""
    options = (("attention", "columns interleaved"), ("residual", "no attention"), ("seed", 0))
    example = Example(options, (Edit("use another output", 57, 0, 0, 0.0),))
    assert try_file(example, tmp_path, whole=True) == "right"
    bundle = load_bundle(tmp_path / "bundle")
    graph = bundle.graphs["default"]
    assert graph.heads[0].shape[:1] == (1,) < graph.heads[0].shape[1:2]
    codes = Executor(graph).run(quantise_input(graph, bundle.sample("default", "input")))
    given = bundle.sample("default", "float")
    assert only_output(graph, codes).shape == given.shape == (len(codes), *graph.heads[0].shape[1:])
