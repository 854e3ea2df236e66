"""Files of every opset: read as they are, or converted and compared with what they were."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper, version_converter
from torch import Tensor, nn

from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph, opset
from moesaic.compiler.frontend.opset import NEWEST, OPSETS
from moesaic.compiler.validate.compare import open_oracle
from moesaic.spec.errors import UserError
from tests.compiler.onnx_short import shorten
from tests.compiler.onnx_vit import Vit
from tests.compiler.test_frontend_models import export_encoder
from tests.compiler.validated import read_validated, samples_for


class Plain(nn.Module):
    """A transformer whose attention is arithmetic, which every opset has."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 7, width))
        self.first, self.second, self.last = (nn.LayerNorm(width) for _ in range(3))
        self.joint, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 24), nn.Linear(24, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        frames, count, width = x.shape
        parts = self.joint(self.first(x)).reshape(frames, count, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query @ key.transpose(-2, -1)) * (width // self.heads) ** -0.5
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(frames, count, width)
        x = x + self.out(mixed)
        x = x + self.down(nn.functional.gelu(self.up(self.second(x))))
        return self.head(self.last(x)[:, 0])


def export(path: Path, version: int) -> Path:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Plain().eval(), (torch.zeros(1, 3, 8, 12),), str(path), dynamo=False,
            opset_version=version, input_names=["x"], dynamic_axes={"x": {0: "batch"}},
        )  # fmt: skip
    return path


@pytest.mark.parametrize("version", range(9, 21))
def test_older_exports_of_torch(tmp_path: Path, version: int) -> None:
    path = export(tmp_path / "model.onnx", version)
    graph, found = read_validated(path)
    assert found.worst < 0.25 and len(graph.layers) == 2
    converted = version not in OPSETS
    assert (open_oracle(path, graph).original is not None) == converted
    assert (
        graph.notes
        == [f"converted by ONNX before it was read: from opset {version} to {OPSETS[0]}"]
        * converted
    )
    x = samples_for(graph)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    assert np.abs(run_float(graph, x) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("version", [14, 16])
def test_encoder_of_an_older_opset(tmp_path: Path, version: int) -> None:
    export_encoder(tmp_path / "model.onnx", opset_version=version)
    graph, found = read_validated(tmp_path / "model.onnx")
    assert found.worst < 0.25 and len(graph.layers) == 4 and not graph.notes


@pytest.mark.parametrize("version", range(OPSETS[-1] + 1, NEWEST + 1))
@pytest.mark.parametrize("mlp", ["dense", "loop", "one-hot", "stacked"])
def test_newer_opset(tmp_path: Path, mlp: str, version: int) -> None:
    """Converted up by ONNX, and down again by the compiler."""
    proto = version_converter.convert_version(Vit(mlp=mlp).proto(), version)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    graph, found = read_validated(path)
    assert found.worst < 0.25
    assert graph.notes == [
        f"converted by ONNX before it was read: from opset {version} to {OPSETS[-1]}"
    ]


def test_operator_of_the_newest_opset_that_is_read(tmp_path: Path) -> None:
    class Swishing(Vit):
        def activation(self, x: str) -> str:
            return self.op("Swish", x)

    graph, found = read_validated(Swishing(opset=OPSETS[-1]).save(tmp_path))
    assert found.worst < 0.25 and not graph.notes


@pytest.mark.parametrize("kind", ["float16", "float16 inside"])
def test_old_file_in_16_bits(tmp_path: Path, kind: str) -> None:
    proto = shorten(onnx.load(export(tmp_path / "long.onnx", 11)), kind)
    onnx.save(proto, tmp_path / "short.onnx")
    graph, found = read_validated(tmp_path / "short.onnx")
    assert found.worst < 0.25
    assert "converted by ONNX before it was read: from opset 11 to 13" in graph.notes


def test_conversion_that_is_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the converter does to the function, if it is recognised."""
    path = export(tmp_path / "model.onnx", 11)
    convert = version_converter.convert_version

    def wrong(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
        result = convert(model, version)
        tensor = next(t for t in result.graph.initializer if t.name == "head.weight")
        tensor.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(tensor), tensor.name))
        return result

    read_validated(path)
    monkeypatch.setattr(opset.version_converter, "convert_version", wrong)
    load_graph(path)
    with pytest.raises(UserError, match=r"computes something else in the opset .*differ by"):
        read_validated(path)


def test_softmax_of_all_later_axes(tmp_path: Path) -> None:
    """Of opset 12 and before: it is no softmax of one axis, so the converter keeps what it is."""
    proto = onnx.load(export(tmp_path / "model.onnx", 11))
    softmax = next(node for node in proto.graph.node if node.op_type == "Softmax")
    next(a for a in softmax.attribute if a.name == "axis").i = 2
    onnx.save(proto, tmp_path / "odd.onnx")
    with pytest.raises(UserError, match="Softmax|softmax"):
        read_validated(tmp_path / "odd.onnx")


@pytest.mark.parametrize("embed", ["conv", "tokens", "unfold"])
def test_float64(tmp_path: Path, embed: str) -> None:
    """What ``model.double()`` exports: read as float32, like the input."""
    proto = Vit(embed=embed, mlp="loop").proto()
    onnx.save(proto, tmp_path / "float.onnx")
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            wide = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(proto, tmp_path / "double.onnx")
    graph, found = read_validated(tmp_path / "double.onnx")
    assert found.worst < 0.25
    assert graph.notes == ["float64 is computed in float32: input 'x'"]
    x = samples_for(graph)
    assert np.array_equal(run_float(graph, x), run_float(load_graph(tmp_path / "float.onnx"), x))


def test_float64_that_float32_does_not_hold(tmp_path: Path) -> None:
    proto = Vit().proto()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    tensor = next(t for t in proto.graph.initializer if len(t.dims) == 2)
    huge = np.full(tensor.dims, 1e300)
    tensor.CopyFrom(numpy_helper.from_array(huge, tensor.name))
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=f"initializer '{tensor.name}' .* must be finite"):
        load_graph(tmp_path / "model.onnx")


def test_nodes_that_are_not_sorted_are_noted(tmp_path: Path) -> None:
    proto = Vit().proto()
    last = proto.graph.node.pop()
    proto.graph.node.insert(0, last)
    onnx.save(proto, tmp_path / "model.onnx")
    graph, _ = read_validated(tmp_path / "model.onnx")
    (note,) = graph.notes
    assert "nodes have been sorted" in note and f"node '{last.output[0]}'" in note


def test_file_of_a_later_format(tmp_path: Path) -> None:
    """ONNX Runtime does not run it, so that there is nothing to compare with."""
    proto = onnx.load(export(tmp_path / "model.onnx", 11))
    proto.ir_version = 99
    onnx.save(proto, tmp_path / "future.onnx")
    with pytest.raises(UserError, match=r"future\.onnx (cannot be converted|.*IR version)"):
        read_validated(tmp_path / "future.onnx")
