"""Graphs in float16 and bfloat16: their weights exactly, their arithmetic in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from moesaic.compiler import ir
from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.frontend.floats import ROUNDED
from moesaic.spec.errors import UserError
from tests.compiler.onnx_short import KINDS, shorten
from tests.compiler.onnx_vit import Vit
from tests.compiler.test_frontend_models import export_encoder
from tests.compiler.validated import read_validated, samples_for

FORMS = [
    {"gelu": "torch", "norm": "arithmetic"},
    {"gelu": "half last", "mlp": "loop", "embed": "unfold"},
    {"gelu": "tanh arithmetic", "mlp": "stacked", "attention": "split"},
    {"half": True, "mlp": "renormalised", "norm": "sum"},
]
BITS = {"float16": 11, "float16 inside": 11, "bfloat16": 8}


def _name(form: dict[str, object]) -> str:
    return ", ".join(str(value) for value in form.values())


@pytest.mark.parametrize("form", FORMS, ids=_name)
@pytest.mark.parametrize("kind", KINDS)
def test_short_graph_is_read(tmp_path: Path, kind: str, form: dict[str, object]) -> None:
    """Recognised, compared as sharply as a float32 file, and near the float32 file."""
    proto = Vit(**form).proto()  # type: ignore[arg-type]
    onnx.save(proto, tmp_path / "long.onnx")
    onnx.save(shorten(proto, kind), tmp_path / "short.onnx")
    graph, found = read_validated(tmp_path / "short.onnx")
    assert found.worst < 0.25 and not found.incomparable
    assert any(ROUNDED in note for note in graph.notes)
    assert all(linear.weight.dtype == np.float32 for linear in _linears(graph))
    whole = load_graph(tmp_path / "long.onnx")
    for short, exact in zip(_linears(graph), _linears(whole), strict=True):
        assert np.allclose(short.weight, exact.weight, rtol=2.0 ** -BITS[kind], atol=1e-7)


def _linears(graph: ir.Graph) -> list[ir.Linear]:
    linears = [graph.embed.linear, graph.heads[0].linear]
    for layer in graph.layers:
        if isinstance(layer, ir.Attention):
            linears += [layer.query, layer.key, layer.value, layer.output]
        elif isinstance(layer, ir.Mlp):
            linears += [layer.up, layer.down]
        else:
            linears += [layer.gate, *(e.up for e in layer.experts)]
    return linears


@pytest.mark.parametrize("kind", ["float16", "float16 inside"])
def test_the_file_itself_computes_nearly_the_same(tmp_path: Path, kind: str) -> None:
    """ONNX Runtime runs float16 itself: what is left out is no more than its rounding."""
    path = tmp_path / "short.onnx"
    onnx.save(shorten(Vit(gelu="torch").proto(), kind), path)
    graph = load_graph(path)
    x = samples_for(graph)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = x.astype(np.float16) if kind == "float16" else x
    expected = np.concatenate([session.run(None, {"x": sample[None]})[0] for sample in given])
    error = np.abs(run_float(graph, x) - expected).max() / np.abs(expected).max()
    assert 0 < error < 16 * 2.0**-11


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_torch_exports_short_floats(tmp_path: Path, kind: torch.dtype) -> None:
    """What ``model.half()`` and ``model.bfloat16()`` export, weights to the bit."""
    model = export_encoder(tmp_path / "model.onnx", dtype=kind)
    graph, _ = read_validated(tmp_path / "model.onnx")
    layer = graph.layers[1]
    assert isinstance(layer, ir.Mlp)
    encoder = model.encoder.layers[0]
    assert np.array_equal(layer.up.weight, encoder.linear1.weight.detach().float().numpy())


def test_constants_that_are_not_gelus_stay_rounded(tmp_path: Path) -> None:
    """0.7073 is no rounding of the root of a half: another activation, which is refused."""
    vit = Vit(gelu="half last")
    proto = shorten(vit.proto(), "float16")
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16 and not tensor.dims:
            value = numpy_helper.to_array(tensor)
            if abs(float(value) - 0.5**0.5) < 1e-3:
                near = np.nextafter(value, np.float16(1))
                tensor.CopyFrom(numpy_helper.from_array(near, tensor.name))
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="it differs from gelu by up to"):
        load_graph(tmp_path / "model.onnx")


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    proto = shorten(Vit().proto(), "float16")
    tensor = next(t for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT16)
    damaged = np.full(list(tensor.dims), np.inf, np.float16)
    tensor.CopyFrom(numpy_helper.from_array(damaged, tensor.name))
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=f"initializer '{tensor.name}' .* must be finite"):
        load_graph(tmp_path / "model.onnx")


def test_nodes_in_any_order(tmp_path: Path) -> None:
    """Converters append casts behind what reads them."""
    proto = Vit(mlp="loop").proto()
    onnx.save(proto, tmp_path / "plain.onnx")
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(np.random.default_rng(0).permutation(np.array(nodes, object)))
    onnx.save(proto, tmp_path / "shuffled.onnx")
    graph, _ = read_validated(tmp_path / "shuffled.onnx")
    plain = load_graph(tmp_path / "plain.onnx")
    x = samples_for(graph)
    assert np.array_equal(run_float(graph, x), run_float(plain, x))


def test_circle_is_refused(tmp_path: Path) -> None:
    proto = Vit().proto()
    first, last = proto.graph.node[0], proto.graph.node[-1]
    first.input[0] = proto.graph.node[-2].output[0]
    assert last.output[0] == proto.graph.output[0].name
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="in a circle"):
        load_graph(tmp_path / "model.onnx")


def test_casts_of_constants_are_no_rounding(tmp_path: Path) -> None:
    """Weights stored in 16 bits and widened by the file lose nothing."""
    vit = Vit()
    proto = vit.proto()
    weight = next(t for t in proto.graph.initializer if len(t.dims) == 2 and t.data_type == 1)
    short = numpy_helper.to_array(weight).astype(np.float16)
    name = weight.name
    weight.CopyFrom(numpy_helper.from_array(short, f"{name} short"))
    cast = helper.make_node("Cast", [f"{name} short"], [name], to=TensorProto.FLOAT)
    proto.graph.node.insert(0, cast)
    onnx.save(proto, tmp_path / "model.onnx")
    graph, _ = read_validated(tmp_path / "model.onnx")
    assert not graph.notes
