"""Graphs that ONNX Runtime's optimizer has fused: read like what they were made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from onnxruntime.transformers import optimizer

from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.points import mlps
from moesaic.models.config import M3ViTConfig
from moesaic.models.export import export_onnx
from moesaic.models.m3vit import random_model
from moesaic.spec.errors import UserError
from tests.compiler.onnx_short import shorten
from tests.compiler.onnx_vit import CHANNELS, Vit
from tests.compiler.test_frontend_batch import TokensFirst, export
from tests.compiler.test_frontend_opsets import Plain
from tests.compiler.test_frontend_opsets import export as export_opset
from tests.compiler.validated import compare, read_validated, samples_for


def fuse(path: Path, half: bool = False) -> Path:
    """Save what the optimizer makes of a file; returns where."""
    model = optimizer.optimize_model(str(path), model_type="vit", opt_level=0)
    if half:
        model.convert_float_to_float16(keep_io_types=True)
    target = path.with_name("fused.onnx")
    model.save_model_to_file(str(target))
    return target


def operators(path: Path, domain: str = "com.microsoft") -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node if node.domain == domain}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference model with experts, as torch exports it."""
    config = M3ViTConfig(height=8, width=12, patch=4, dim=20, depth=2, heads=2, experts=4,
                         top_k=2, expert_hidden=11)  # fmt: skip
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(random_model(config, seed=5), "seg", path)
    return path


@pytest.mark.parametrize("half", [False, True])
def test_optimised_graph(exported: Path, half: bool) -> None:
    fused = fuse(exported, half)
    assert {"BiasGelu", "SkipLayerNormalization"} <= operators(fused)
    graph, found = read_validated(fused)
    assert found.worst < 0.25
    plain = load_graph(exported)
    x = samples_for(graph)
    expected = run_float(plain, x)
    # Weights of 16 bits, no rounding of what is computed.
    limit = 32 * 2.0**-11 if half else 1e-5
    assert np.abs(run_float(graph, x) - expected).max() < limit * np.abs(expected).max()


def optimise(path: Path, level: onnxruntime.GraphOptimizationLevel) -> Path:
    """Save what ONNX Runtime makes of a file when it loads it; returns where."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    target = path.with_name("loaded.onnx")
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return target


LEVELS = onnxruntime.GraphOptimizationLevel
EXPORTS: dict[str, tuple[type[torch.nn.Module], bool]] = {
    "Plain": (Plain, False),
    "tokens first": (TokensFirst, False),
    "tokens first, dynamo": (TokensFirst, True),
}


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
@pytest.mark.parametrize("name", EXPORTS)
def test_graph_as_the_runtime_optimises_it(tmp_path: Path, name: str, level: str) -> None:
    torch.manual_seed(0)
    kind, dynamo = EXPORTS[name]
    plain = export(kind(), tmp_path / "model.onnx", 1, dynamo)
    fused = optimise(plain, getattr(LEVELS, level))
    if level == "ORT_ENABLE_EXTENDED":
        assert {"FusedMatMul", "SkipLayerNormalization"} <= operators(fused)
    graph, found = read_validated(fused)
    assert found.worst < 0.25
    x = samples_for(graph)
    expected = run_float(load_graph(plain), x)
    assert np.abs(run_float(graph, x) - expected).max() < 1e-5 * np.abs(expected).max()


def test_transposed_batches_are_read(tmp_path: Path) -> None:
    """Heads of torch's encoder, whose tokens come first."""
    torch.manual_seed(0)
    fused = optimise(
        export(TokensFirst(), tmp_path / "model.onnx", 1, False), LEVELS.ORT_ENABLE_EXTENDED
    )
    proto = onnx.load(fused)
    turned = [
        attribute
        for node in proto.graph.node
        for attribute in node.attribute
        if attribute.name.startswith("transBatch") and attribute.i
    ]
    assert turned and read_validated(fused)[1].worst < 0.25
    for attribute in turned:
        attribute.i = 0
    onnx.save(proto, fused)
    with pytest.raises(UserError):
        read_validated(fused)


@pytest.mark.parametrize("version", [11, 14])
def test_operators_ahead_of_the_opset(tmp_path: Path, version: int) -> None:
    """ONNX Runtime fuses LayerNormalization into files whose opset has none."""
    fused = optimise(export_opset(tmp_path / "model.onnx", version), LEVELS.ORT_ENABLE_EXTENDED)
    norms = [n for n in onnx.load(fused).graph.node if n.op_type == "LayerNormalization"]
    assert norms and not any(node.domain for node in norms)
    graph, found = read_validated(fused)
    assert found.worst < 0.25 and len(graph.layers) == 2


def test_layout_that_the_runtime_chooses(tmp_path: Path) -> None:
    """Its default level lays convolutions out for the processor it runs on."""
    fused = optimise(export_opset(tmp_path / "model.onnx", 17), LEVELS.ORT_ENABLE_ALL)
    if "Conv" not in operators(fused, "com.microsoft.nchwc"):
        pytest.skip("this processor has no layout of its own")
    with pytest.raises(UserError, match="nchwc.Conv; .* at ORT_ENABLE_EXTENDED"):
        load_graph(fused)


def test_stream_is_compared_where_the_file_has_it(exported: Path) -> None:
    """Sums that fused nodes give are outputs of theirs: each layer is compared."""
    fused = fuse(exported)
    graph = load_graph(fused)
    names = {name for node in onnx.load(fused).graph.node for name in node.output}
    assert graph.streams[1] is not None and graph.streams[1].tensor in names
    graph.layers[0].scale *= 1.01  # type: ignore[union-attr]
    with pytest.raises(UserError, match="layer 0 at"):
        compare(graph, fused)


def test_fused_graph_in_two_parts(tmp_path: Path) -> None:
    """The cut is behind a fused node, whose types ONNX does not know."""
    fused = fuse(Vit(norm="power", head="pooled", class_token="none").save(tmp_path))
    graph = load_graph(fused, partition=True)
    assert graph.host is not None and compare(graph, fused).worst < 0.25


def test_quick_gelu_is_an_activation_of_its_own(tmp_path: Path) -> None:
    path = Vit(gelu="quick").save(tmp_path)
    graph = load_graph(path)
    assert {mlp.activation for _, mlp in mlps(graph)} == {"quick_gelu"}
    assert compare(graph, path).worst < 0.25


EXTRA = [
    ("fused joint", 3, np.ones((1, 1), np.int32), "a mask"),
    ("fused joint", 5, np.ones((1, 1, 1, 1), np.float32), "a bias of the scores"),
    ("fused heads", 4, np.ones((1, 1), np.int32), "a mask"),
    ("fused heads", 6, np.ones((1, 1, 1, 1), np.float32), "a key-value cache"),
]


@pytest.mark.parametrize(("attention", "index", "value", "what"), EXTRA)
def test_input_that_is_not_understood(
    tmp_path: Path, attention: str, index: int, value: np.ndarray, what: str
) -> None:
    vit = Vit(attention=attention)
    proto = vit.proto()
    node = next(n for n in proto.graph.node if "Attention" in n.op_type)
    node.input.extend([""] * (index - len(node.input)))
    node.input.append(vit.const(value, value.dtype))
    proto.graph.initializer.append(vit.constants[-1])
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=f"{node.op_type}.* {what} .*input {index}.* not supported"):
        load_graph(tmp_path / "model.onnx")


def test_mean_of_a_fused_norm_is_not_made(tmp_path: Path) -> None:
    """Nothing here computes it; a node that reads it names the one that should."""
    proto = Vit(residual="fused").proto()
    node = next(n for n in proto.graph.node if n.op_type == "SkipLayerNormalization")
    node.output[1] = "mean"
    output = proto.graph.output[0].name
    proto.graph.node.append(helper.make_node("Add", [output, "mean"], ["shifted"]))
    proto.graph.output[0].name = "shifted"
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="SkipLayerNormalization.* output 'mean' is not supported"):
        load_graph(tmp_path / "model.onnx")


def test_layout_of_one_processor_is_refused(tmp_path: Path) -> None:
    proto = Vit().proto()
    node = next(n for n in proto.graph.node if n.op_type == "Conv")
    node.domain = "com.microsoft.nchwc"
    proto.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="nchwc.Conv; .* at ORT_ENABLE_EXTENDED"):
        load_graph(tmp_path / "model.onnx")


@pytest.mark.parametrize("sizes", [[CHANNELS, CHANNELS], [CHANNELS, CHANNELS, CHANNELS + 3]])
def test_sizes_that_do_not_fit(tmp_path: Path, sizes: list[int]) -> None:
    proto = Vit(attention="fused joint").proto()
    node = next(n for n in proto.graph.node if n.op_type == "Attention")
    node.attribute.append(helper.make_attribute("qkv_hidden_sizes", sizes))
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="qkv_hidden_sizes .* do not fit 36 columns"):
        load_graph(tmp_path / "model.onnx")


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("attention", ["fused joint", "fused heads"])
def test_fused_attention_in_16_bits(tmp_path: Path, attention: str, kind: str) -> None:
    proto = shorten(Vit(attention=attention, residual="fused with bias").proto(), kind)
    onnx.save(proto, tmp_path / "model.onnx")
    assert read_validated(tmp_path / "model.onnx")[1].worst < 0.25
