"""What the frontend refuses, and that the message names the culprit and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph
from moesaic.spec.errors import UserError
from tests.compiler.onnx_vit import Vit


def message(path: Path, task: str = "seg", partition: bool | None = None) -> str:
    """Return what the refusal of a file says; it is one line."""
    with pytest.raises(UserError) as caught:
        load_graph(path, task, partition)
    text = str(caught.value)
    assert "\n" not in text
    return text


def node_named(vit: Vit, kind: str) -> str:
    """Return how messages name the last node of a kind, which has no name of its own."""
    return next(
        f"node '{node.output[0]}' ({kind})" for node in vit.nodes[::-1] if node.op_type == kind
    )


# -- files ------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in message(tmp_path / "absent.onnx")


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x07", bytes(range(256)) * 9])
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "picture.onnx"
    path.write_bytes(content)
    assert f"model {path} must be an ONNX file" in message(path)


def test_what_is_taken_for_onnx_is_named(tmp_path: Path) -> None:
    """A checkpoint, samples, a file that git left out; a folder such as a bundle."""
    with (tmp_path / "samples.onnx").open("wb") as file:
        np.savez(file, x=np.zeros(3))
    torch.save({"weight": torch.zeros(3)}, tmp_path / "checkpoint.onnx")
    (tmp_path / "pointer.onnx").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"
    )
    (tmp_path / "folder.onnx").mkdir()
    for name, what in (
        ("samples", "it is an .npz or another archive: give what torch.onnx.export writes"),
        ("checkpoint", "it is a torch checkpoint: give what torch.onnx.export writes"),
        ("pointer", "`git lfs pull`"),
        ("folder", "but it is no plain file"),
    ):
        assert what in message(tmp_path / f"{name}.onnx")


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
def test_truncated_file(tmp_path: Path, cut: float) -> None:
    path = Vit().save(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    assert str(path) in message(path)


@pytest.mark.parametrize(("opset", "nearest"), [(1, 13), (6, 13), (99, 24)])
def test_wrong_opset(tmp_path: Path, opset: int, nearest: int) -> None:
    text = message(Vit(opset=opset).save(tmp_path))
    assert f"opset 7 to {onnx.defs.onnx_opset_version()} of" in text and f"not {opset}:" in text
    assert f"opset_version={nearest}" in text


def test_file_that_is_not_of_its_opset(tmp_path: Path) -> None:
    """The converter finds that opset 11 has no LayerNormalization."""
    text = message(Vit(opset=11).save(tmp_path))
    assert "cannot be converted from opset 11 to 13 (" in text and "opset_version=13" in text


def test_external_data_is_read_and_its_absence_refused(tmp_path: Path) -> None:
    inside = load_graph(Vit(mlp="loop").save(tmp_path, "inside.onnx"))
    proto = Vit(mlp="loop").proto()
    external_data_helper.convert_model_to_external_data(proto, location="w.bin", size_threshold=0)
    path = tmp_path / "outside.onnx"
    onnx.save(proto, path)
    assert (tmp_path / "w.bin").stat().st_size > 1000
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 12))
    assert np.array_equal(run_float(load_graph(path), x), run_float(inside, x))
    (tmp_path / "w.bin").unlink()
    text = message(path)
    assert "external data" in text and "beside the model" in text


# -- inputs, outputs, constants ---------------------------------------------------------------


def save(tmp_path: Path, proto: onnx.ModelProto) -> Path:
    path = tmp_path / "changed.onnx"
    onnx.save(proto, path)
    return path


def test_dynamic_dimension(tmp_path: Path) -> None:
    proto = Vit().proto()
    proto.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    text = message(save(tmp_path, proto))
    assert "input 'x'" in text and "dimension 3 ('width')" in text and "--dim width=NUMBER" in text


def test_batch_of_two(tmp_path: Path) -> None:
    """Whose class token is of one frame."""
    text = message(Vit(batch=2).save(tmp_path))
    assert "a fixed batch of 2 frames" in text and "(Concat) cannot leave" in text
    assert "export the model for a batch of 1" in text


def test_input_of_another_type(tmp_path: Path) -> None:
    proto = Vit().proto()
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    assert "input 'x'" in (text := message(save(tmp_path, proto))) and "not uint8" in text


def test_two_inputs(tmp_path: Path) -> None:
    proto = Vit().proto()
    proto.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    assert "one input, not 2 ('x', 'mask')" in message(save(tmp_path, proto))


def test_two_outputs(tmp_path: Path) -> None:
    proto = Vit().proto()
    inner = proto.graph.node[3].output[0]
    proto.graph.output.append(helper.make_tensor_value_info(inner, TensorProto.FLOAT, None))
    text = message(save(tmp_path, proto))
    assert f"output {inner!r}: it mixes" in text and "the other outputs by --model-output" in text


def test_no_output(tmp_path: Path) -> None:
    proto = Vit().proto()
    del proto.graph.output[:]
    assert "an output, not 0 (none)" in message(save(tmp_path, proto))


def test_output_that_nothing_computes(tmp_path: Path) -> None:
    proto = Vit().proto()
    proto.graph.output[0].name = "depth"
    assert "output 'depth'" in (text := message(save(tmp_path, proto))) and "none does" in text


def test_constant_output(tmp_path: Path) -> None:
    proto = Vit().proto()
    proto.graph.node.append(helper.make_node("Neg", [proto.graph.initializer[0].name], ["fixed"]))
    proto.graph.output[0].name = "fixed"
    assert "must depend on input 'x'" in message(save(tmp_path, proto))


def test_missing_value(tmp_path: Path) -> None:
    proto = Vit().proto()
    removed = proto.graph.initializer.pop(4).name
    assert f"reads '{removed}', which nothing produces" in message(save(tmp_path, proto))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    vit = Vit(mlp="loop")
    proto = vit.proto()
    tensor = next(t for t in proto.graph.initializer[10:] if len(t.dims) == 2)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[-1] = bad
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    text = message(save(tmp_path, proto))
    assert f"initializer '{tensor.name}'" in text and "NaN or infinity" in text


# -- operators --------------------------------------------------------------------------------

BAD_NODES: list[tuple[str, dict[str, Any], str]] = [
    ("Resize", {}, "on the host"),
    ("NonZero", {}, "on the host"),
    ("Mish", {}, "no unit for Mish"),
    ("Nonsense", {}, "no unit for Nonsense"),
    ("BatchNormalization", {}, "fold it"),
    ("Loop", {}, "control flow"),
    ("RandomNormalLike", {}, "no unit"),
]


@pytest.mark.parametrize(("kind", "attributes", "advice"), BAD_NODES)
def test_unsupported_operator(
    tmp_path: Path, kind: str, attributes: dict[str, Any], advice: str
) -> None:
    proto = Vit().proto()
    output = proto.graph.output[0].name
    proto.graph.node.append(
        helper.make_node(kind, [output], ["last"], name="the culprit", **attributes)
    )
    proto.graph.output[0].name = "last"
    text = message(save(tmp_path, proto), partition=False)
    assert f"node 'the culprit' ({kind})" in text and advice in text


def test_unsupported_operator_of_another_domain(tmp_path: Path) -> None:
    proto = Vit().proto()
    output = proto.graph.output[0].name
    proto.graph.node.append(helper.make_node("Add", [output, output], ["last"], domain="acme"))
    proto.graph.output[0].name = "last"
    assert "no unit for acme.Add" in message(save(tmp_path, proto))


def test_unneeded_node_is_ignored(tmp_path: Path) -> None:
    proto = Vit().proto()
    proto.graph.node.append(helper.make_node("NonZero", [proto.graph.output[0].name], ["unused"]))
    load_graph(save(tmp_path, proto))


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [
        ("Reshape", ["x", "c0"], {}),
        ("Transpose", ["x"], {"perm": [0, 1]}),
        ("MatMul", ["x", "x"], {}),
        ("Add", ["x"], {}),
        ("Gemm", ["x", "c0"], {"alpha": 1.0}),
        ("TopK", ["x", "x"], {}),
        ("Conv", ["x", "x"], {}),
        ("LayerNormalization", ["x"], {}),
        ("Split", ["x"], {"axis": 9, "num_outputs": 2}),
        ("Concat", ["x", ""], {"axis": 1}),
    ],
)
def test_malformed_node(
    tmp_path: Path, kind: str, inputs: list[str], attributes: dict[str, Any]
) -> None:
    proto = Vit().proto()
    bad = helper.make_node(kind, inputs, ["last"], name="bad", **attributes)
    proto.graph.node.append(bad)
    proto.graph.output[0].name = "last"
    assert f"node 'bad' ({kind})" in message(save(tmp_path, proto))


# -- structure --------------------------------------------------------------------------------

STRUCTURES: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"head": "pooled"}, "MatMul", ["reads pooled tokens", "pool on the host"]),
    ({"head": "pooled first"}, "ReduceMean", ["pools the tokens", "--partition"]),
    ({"head": "softmax"}, "Softmax", ["last linear layer", "on the host"]),
    ({"gelu": "elu"}, "Elu", ["no unit for Elu"]),
    ({"gelu": "other maximum"}, "Max", ["weighs no experts"]),
    ({"gelu": "other sigmoid"}, "Mul", ["none of gelu", "differs from quick_gelu by"]),
    ({"gelu": "none"}, "MatMul", ["without an activation"]),
    ({"gelu": "identity", "mlp": "node"}, "MoE", ["activation_type", "'identity'"]),
    ({"scale": "mask"}, "MatMul", ["mask or position bias", "position embedding"]),
    ({"residual": "constant before"}, "Add", ["does not read the residual stream"]),
]


@pytest.mark.parametrize(("options", "kind", "parts"), STRUCTURES)
def test_structure_that_is_not_supported(
    tmp_path: Path, options: dict[str, Any], kind: str, parts: list[str]
) -> None:
    text = message(Vit(**options).save(tmp_path), partition=False)
    assert f"({kind})" in text
    assert all(part in text for part in parts), text


@pytest.mark.parametrize("factor", [2.0, 4.0, 1.3])
def test_variance_of_something_else_is_no_layer_norm(tmp_path: Path, factor: float) -> None:
    """(x - mean) / factor over the root of factor * its own mean square is another function."""

    class Odd(Vit):
        def layer_norm(self, x: str, epsilon: float = 1e-6) -> str:
            centred = self.op("Sub", x, self.op("ReduceMean", x, self.ints(-1)))
            half = self.op("Div", centred, self.const(factor))
            square = self.op("Mul", self.op("Mul", half, half), self.const(factor))
            variance = self.op("ReduceMean", square, self.ints(-1))
            root = self.op("Sqrt", self.op("Add", variance, self.const(epsilon)))
            return self.op("Div", self.op("Mul", half, self.const(factor)), root)

    assert "LayerNorm" in message(Odd(mlp="loop").save(tmp_path))


@pytest.mark.parametrize("factor", [0.5, 1.001])
def test_stream_that_is_scaled_between_layers(tmp_path: Path, factor: float) -> None:
    class Scaled(Vit):
        def add(self, stream: str, branch: str) -> str:
            attended = any(node.op_type == "Softmax" for node in self.nodes)
            scaled = self.op("Mul", stream, self.const(factor)) if attended else stream
            return super().add(scaled, branch)

    assert "the residual stream is scaled" in message(Scaled(mlp="loop").save(tmp_path))


@pytest.mark.parametrize("mlp", ["loop", "renormalised", "one-hot", "equality", "mask"])
def test_lost_expert(tmp_path: Path, mlp: str) -> None:
    text = message(Vit(mlp=mlp, experts=3).save(tmp_path))
    assert "scores 4 experts but the graph holds 3 (expert 3 is missing)" in text
    assert "router at node" in text and "task 'seg'" in text


def test_lost_expert_of_microsoft_moe(tmp_path: Path) -> None:
    vit = Vit(mlp="node", experts=3)
    text = message(vit.save(tmp_path))
    assert node_named(vit, "MoE") in text and "scores 4 experts but it holds 3" in text


def test_repeated_expert(tmp_path: Path) -> None:
    vit = Vit(mlp="gather")
    proto = vit.proto()
    gathers = [node for node in proto.graph.node if node.op_type == "Gather"]
    gathers[-1].input[1] = gathers[-2].input[1]
    assert "expert 2" in (text := message(save(tmp_path, proto))) and "twice" in text


def test_norm_of_the_branch_alone(tmp_path: Path) -> None:
    """As SwinV2 has it: x + LayerNorm(f(x))."""
    vit = Vit()
    mix = vit.mix
    vit.mix = lambda x, count: vit.layer_norm(mix(x, count))  # type: ignore[method-assign]
    text = message(vit.save(tmp_path))
    assert "only x + f(LayerNorm(x)), LayerNorm(x + f(x)) and" in text
    assert "must add one layer to the residual stream" in text


def test_image_network_that_is_no_transformer(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("GlobalAveragePool", ["b"], ["y"], name="third"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    path = save(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    assert "node 'third' (GlobalAveragePool)" in message(path)
    graph.node.pop()
    graph.output[0].name = "b"
    path = save(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    assert "node 'second' (Relu)" in message(path)
