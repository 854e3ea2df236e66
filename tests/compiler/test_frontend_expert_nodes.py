"""Mixtures that are one node of ONNX Runtime's: read as what it computes, or refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from moesaic.compiler import ir
from moesaic.compiler.frontend import load_graph
from moesaic.models.zoo.mixture_nodes import NODES
from moesaic.spec.errors import UserError
from tests.compiler import onnx_vit
from tests.compiler.onnx_experts import ExpertVit
from tests.compiler.onnx_short import shorten
from tests.compiler.onnx_vit import EXPERTS
from tests.compiler.test_frontend_mixtures import export
from tests.compiler.validated import compare, read_validated

LOOSE = 0.25
"""Of what float rounding may do to a layer."""


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 inputs fit."""
    monkeypatch.setattr(onnx_vit, "CHANNELS", 48)
    monkeypatch.setattr(onnx_vit, "HIDDEN", 32)


def mixture(graph: ir.Graph) -> ir.Moe:
    (found,) = (layer for layer in graph.layers if isinstance(layer, ir.Moe))
    return found


def read(path: Path) -> tuple[ir.Graph, ir.Moe]:
    graph, found = read_validated(path)
    assert found.worst < LOOSE and not found.unreached_experts
    return graph, mixture(graph)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "swiglu"])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("bits", "block"), [(8, 0), (4, 0), (4, 16), (2, 0), (2, 16)])
def test_integers(tmp_path: Path, bits: int, block: int, zeros: bool, activation: str) -> None:
    vit = ExpertVit(bits=bits, block=block, zeros=zeros, activation=activation)
    graph, moe = read(vit.save(tmp_path))
    assert moe.renormalise and len(moe.experts) == EXPERTS
    assert all((e.factor is not None) == (activation == "swiglu") for e in moe.experts)
    # One zero point in the middle: all are int8 with a scale for each row.
    linears = [linear for expert in moe.experts for linear in expert.linears]
    kept = [linear.given.codes is not None for linear in linears]
    if not zeros or bits < 8:
        assert set(kept) == {not block}
    anew = [note for note in graph.notes if "quantised anew" in note]
    assert len(anew) == (not all(kept)) and all("(QMoE)" in note for note in anew)
    for linear in linears:
        if linear.given.codes is not None:
            codes = linear.given.codes.astype(np.float64)
            step = np.abs(linear.weight).max(1) / np.abs(codes).max(1)
            np.testing.assert_allclose(codes * step[:, None], linear.weight, rtol=1e-6)


def test_lowest_integer_is_no_code(tmp_path: Path) -> None:
    """-128 has no negative: such weights are read, and quantised anew."""
    vit = ExpertVit(least=0)
    path = vit.save(tmp_path)
    proto = onnx.load(path)
    node = next(node for node in proto.graph.node if node.op_type == "QMoE")
    weights = next(tensor for tensor in proto.graph.initializer if tensor.name == node.input[5])
    array = numpy_helper.to_array(weights).copy()
    array[1, 2, 3] = 0
    weights.CopyFrom(numpy_helper.from_array(array, weights.name))
    onnx.save(proto, path)
    graph, moe = read(path)
    assert moe.experts[0].down.given.codes is None and moe.experts[0].up.given.codes is not None
    assert any("quantised anew" in note for note in graph.notes)


@pytest.mark.parametrize(
    "options",
    [
        {"biased": False},
        {"attributes": {"weights_prepacked": 0}},
        {"bits": 4, "attributes": {"accuracy_level": 4}},
    ],
)
def test_other_forms(tmp_path: Path, options: dict[str, Any]) -> None:
    read(ExpertVit(**options).save(tmp_path))


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("alpha", [1.0, 1.702, 0.5])
def test_swiglu(tmp_path: Path, bits: int, alpha: float, beta: float) -> None:
    given = {"activation_alpha": alpha, "activation_beta": beta}
    vit = ExpertVit(bits=bits, activation="swiglu", attributes=given)
    _, moe = read(vit.save(tmp_path))
    assert {expert.activation for expert in moe.experts} == {"silu"}
    codes = {linear.given.codes is None for expert in moe.experts for linear in expert.linears}
    assert codes == {bits == 32}


def reached(norm: ir.Norm, weight: np.ndarray, bias: np.ndarray) -> float:
    """The largest of all outputs of a layer for normalised rows, each made for one output."""
    slopes = weight * norm.gamma
    rows = (slopes - slopes.mean(1, keepdims=True)) / slopes.std(1, keepdims=True)
    return float((((rows * norm.gamma + norm.beta) * weight).sum(1) + bias).max())


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_limit_that_nothing_reaches(tmp_path: Path, beta: float) -> None:
    """A LayerNorm bounds what an expert's first layer gives: no row gets further, and one does."""

    def limited(limit: float) -> Path:
        given = {"swiglu_limit": limit, "activation_beta": beta}
        return ExpertVit(bits=32, activation="swiglu", attributes=given).save(tmp_path)

    found = re.search(r"which may reach ([\d.]+)", message(limited(1.0)))
    assert found
    bound = float(found[1])
    assert "may clip" in message(limited(bound * 0.999))
    _, moe = read(limited(bound * 1.001))
    worst = 0.0
    for expert in moe.experts:
        assert expert.factor is not None
        bias = expert.factor.bias - beta  # which is added to what has been clipped
        worst = max(
            worst,
            reached(moe.norm, expert.up.weight, expert.up.bias),
            reached(moe.norm, expert.factor.weight, bias),
            reached(moe.norm, -expert.factor.weight, -bias),
        )
    assert worst == pytest.approx(bound, rel=1e-3)


def test_limit_without_a_norm(tmp_path: Path) -> None:
    given = {"swiglu_limit": 1000.0}
    vit = ExpertVit(bits=32, activation="swiglu", attributes=given, stream="post-norm")
    assert "as no LayerNorm bounds them" in message(vit.save(tmp_path))


def message(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_graph(path)
    return str(caught.value)


C, H = 48, 32
BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"block": 16}, ["rounds the activations", "without block_size"]),
    ({"bits": 4, "block": 16, "attributes": {"accuracy_level": 4}}, ["accuracy_level 0"]),
    ({"bits": 4, "attributes": {"block_size": 32}}, ["48 columns", "blocks"]),
    ({"bits": 4, "attributes": {"block_size": 16}}, ["its scales must be [4, 32, 3]"]),
    ({"attributes": {"expert_weight_bits": 3}}, ["must be one of 2, 4, 8, not 3"]),
    ({"attributes": {"expert_weight_bits": 4}}, ["uint8 [4, 32, 24], not uint8 [4, 32, 48]"]),
    ({"attributes": {"normalize_routing_weights": 0}}, ["normalize_routing_weights must be 1"]),
    ({"attributes": {"fc1_expert_weight_bits": 8}}, ["'fc1_expert_weight_bits' is not supported"]),
    ({"attributes": {"quant_type": "fp8"}}, ["'quant_type' must be 'int', not 'fp8'"]),
    ({"attributes": {"weights_prepacked": 1}}, ["'weights_prepacked' must be -1 or 0"]),
    ({"attributes": {"activation_type": "identity"}}, ["activation_type", "'identity'"]),
    ({"attributes": {"swiglu_fusion": 1}}, ["swiglu_fusion must be 0 with 'silu'"]),
    ({"more": {8: (EXPERTS, H, C)}}, ["fc3 is not supported"]),
    ({"more": {14: (6, EXPERTS)}}, ["router_weights"]),
    ({"more": {11: (EXPERTS, H)}}, ["its zero points must be uint8 [4, 32], not float32"]),
    ({"more": {3: (EXPERTS, C)}}, ["its scales must be [4, 32], not [4, 48]"]),
    ({"more": {4: (EXPERTS, C)}}, ["its expert biases must be [4, 32], not [4, 48]"]),
    ({"more": {2: (EXPERTS, H, C)}}, ["its expert weights must be uint8"]),
    ({"bits": 32, "more": {6: (EXPERTS, H, C)}}, ["fc3 is not supported"]),
]
PAIRS: list[tuple[dict[str, Any], list[str]]] = [
    ({"swiglu_fusion": 0}, ["swiglu_fusion must be 1", "in turn in fc1"]),
    ({"swiglu_fusion": 2}, ["swiglu_fusion must be 1", "in turn in fc1"]),
    ({"activation_alpha": 0.0}, ["activation_alpha must be above 0, not 0"]),
    ({"swiglu_limit_after_activation": 1}, ["'swiglu_limit_after_activation' must be 0"]),
    ({"swiglu_limit": 7.0}, ["swiglu_limit 7 of node", "may clip", "without a limit"]),
]


@pytest.mark.parametrize(("options", "expected"), BAD)
def test_refused(tmp_path: Path, options: dict[str, Any], expected: list[str]) -> None:
    text = message(ExpertVit(**options).save(tmp_path))
    kind = "MoE" if options.get("bits") == 32 else "QMoE"
    assert f"({kind})" in text and all(part in text for part in expected), text


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize(("attributes", "expected"), PAIRS)
def test_refused_pairs(
    tmp_path: Path, bits: int, attributes: dict[str, Any], expected: list[str]
) -> None:
    vit = ExpertVit(bits=bits, activation="swiglu", attributes=attributes)
    text = message(vit.save(tmp_path))
    assert "MoE)" in text and all(part in text for part in expected), text


@pytest.mark.parametrize("name", NODES)
def test_exported(tmp_path: Path, name: str) -> None:
    graph, _ = read_validated(export(NODES[name](), tmp_path, dynamo=True))
    expert = mixture(graph).experts[0]
    assert (expert.factor is not None) == name.endswith(("swiglu", "blocks"))
    kept = not name.startswith("float") and "blocks" not in name
    assert (expert.down.given.codes is not None) == kept


@pytest.mark.parametrize("change", ["pairs swapped", "scale", "order"])
def test_a_wrong_reading_is_noticed(tmp_path: Path, change: str) -> None:
    path = ExpertVit(activation="swiglu").save(tmp_path)
    graph, moe = read(path)
    expert = moe.experts[0]
    assert expert.factor is not None
    if change == "pairs swapped":
        expert.up, expert.factor = expert.factor, expert.up
    elif change == "scale":
        expert.down.weight *= 1.001
    else:
        moe.experts.reverse()
    with pytest.raises(UserError, match="was not recognised for what it is"):
        compare(graph, path)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_short_floats(tmp_path: Path, kind: str) -> None:
    """Scales and biases in 16 bits beside integers, which stay."""
    proto = ExpertVit(bits=4, activation="swiglu").proto()
    path = tmp_path / "model.onnx"
    onnx.save(shorten(proto, kind), path)
    graph, moe = read(path)
    assert all(expert.down.given.codes is not None for expert in moe.experts)
    assert any("16" in note for note in graph.notes)
