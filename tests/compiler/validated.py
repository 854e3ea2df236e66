"""Reads a file as `compile` does: recognised, and compared with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moesaic.compiler import ir
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.validate.compare import Validation, open_oracle, validate


def samples_for(graph: ir.Graph, count: int = 4, seed: int = 0) -> np.ndarray:
    """Normal samples [count, ...] of a graph's input."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, *graph.input_shape[1:])).astype(np.float32)


def compare(graph: ir.Graph, path: Path, seed: int = 0) -> Validation:
    """Compare a graph with the file; raises UserError where they differ."""
    return validate(graph, open_oracle(path, graph), samples_for(graph, seed=seed))


def read_validated(path: Path, seed: int = 0) -> tuple[ir.Graph, Validation]:
    """Read a file and compare; raises UserError where it is refused."""
    graph = load_graph(path)
    return graph, compare(graph, path, seed)
