"""Random forms with random edits: the frontend refuses, or reads what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.validate.oracle import Oracle, run_onnx
from moesaic.spec.errors import UserError
from tests.compiler.onnx_vit import Vit
from tests.compiler.test_frontend_forms import FORMS

SEEDS = 12
PER_SEED = 8


def random_vit(rng: np.random.Generator) -> onnx.ModelProto:
    """Return a model of exact forms (no tanh approximation, opset 20)."""
    left_out = {"tanh node", "tanh arithmetic", "tanh fused", "node", "node 3d", "shared keys"}
    options = {
        part: str(rng.choice([form for form in forms if form not in left_out]))
        for part, forms in FORMS.items()
        if rng.random() < 0.5 and part != "head"
    }
    return Vit(**options, seed=int(rng.integers(1000))).proto()  # type: ignore[arg-type]


def damage(rng: np.random.Generator, graph: onnx.GraphProto) -> None:
    """Rewire, rename or swap something, or give a constant other values or another shape."""
    node = graph.node[int(rng.integers(len(graph.node)))]
    edit = int(rng.integers(5))
    if edit == 0:
        names = [name for other in graph.node for name in other.output]
        names += [tensor.name for tensor in graph.initializer]
        node.input[int(rng.integers(len(node.input)))] = str(rng.choice(names))
    elif edit == 1:
        node.op_type = graph.node[int(rng.integers(len(graph.node)))].op_type
    elif edit == 2 and node.attribute:
        del node.attribute[:]
    elif edit == 3 and len(node.input) > 1:
        node.input[0], node.input[1] = node.input[1], node.input[0]
    else:
        tensor = graph.initializer[int(rng.integers(len(graph.initializer)))]
        grown = int(rng.random() < 0.3)
        values = rng.integers(-3, 3, [int(n) + grown for n in tensor.dims])
        dtype = numpy_helper.to_array(tensor).dtype
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, dtype), tensor.name))


def outcome(path: Path, rng: np.random.Generator) -> str:
    """Return 'refused' or 'equal'; anything else raises."""
    try:
        graph = load_graph(path)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) > 20
        return "refused"
    x = rng.standard_normal((2, *graph.input_shape[1:])).astype(np.float32)
    try:
        expected = run_onnx(path, graph.input_name, x)
    except UserError:
        return "refused"  # as `compile` does: a damaged end may be left to the host
    found = run_float(graph, x).astype(np.float32)
    if graph.host is not None:
        host = Oracle(graph.host.model, "the host part", graph.heads[0].tensor)
        found = next(iter(host.run(found.reshape(2, *graph.heads[0].shape[1:])).values()))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    return "equal"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_damaged_graph_is_refused_or_read_right(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outcomes = []
    for _ in range(PER_SEED):
        proto = random_vit(rng)
        for _ in range(int(rng.integers(0, 3))):
            damage(rng, proto.graph)
        path = tmp_path / "model.onnx"
        onnx.save(proto, path)
        outcomes.append(outcome(path, rng))
    assert "equal" in outcomes
