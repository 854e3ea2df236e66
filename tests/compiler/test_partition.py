"""Where models are divided, what becomes of the host's part, and what cannot be divided."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from moesaic.compiler import ir
from moesaic.compiler.float_reference import run_outputs
from moesaic.compiler.frontend import load_graph
from moesaic.models.config import M3ViTConfig
from moesaic.models.export import export_onnx
from moesaic.models.m3vit import random_model, with_upsample_heads
from moesaic.models.tracing import SingleTask
from moesaic.spec.errors import UserError
from moesaic.spec.hostpart import HostPart, without_batch
from tests.compiler.onnx_heads import HeadedVit, convolutional_stem
from tests.compiler.onnx_vit import CHANNELS, PATCHES, Vit

HEADS: dict[str, tuple[tuple[int, ...], list[str]]] = {
    "convolutions": ((1, CHANNELS, 2, 3), ["Conv", "Relu", "Resize", "Conv"]),
    "projection first": ((1, 5, 2, 3), ["BatchNormalization", "Relu", "Resize"]),
    "probabilities": ((1, 7, 5), ["Softmax"]),
    "pooled": ((1, 7, CHANNELS), ["ReduceMean", "MatMul", "Add"]),
    "perceptron": ((1, 7, 9), ["Gelu", "MatMul", "Add"]),
    "without batch": ((1, PATCHES, CHANNELS), ["HardSwish"]),
    "class and patches": (
        (1, 7, CHANNELS),
        ["Slice", "Sigmoid", "Mul", "Slice", "Transpose", "Reshape", "Conv"],
    ),
    "computed shape": ((1, CHANNELS, 2, 3), ["Conv", "Reshape"]),
    "branch": ((1, CHANNELS, 2, 3), ["ReduceSum", "Greater", "If"]),
    "residual": ((1, CHANNELS, 2, 3), ["Conv"]),
    "two norms": ((1, 7, CHANNELS), [*["LayerNormalization", "Sigmoid"] * 2, "Add"]),
    "pooled stream": ((1, 7, CHANNELS), ["ReduceMean", "LayerNormalization", "MatMul", "Add"]),
}
"""Shape of the cut, and operators on the host."""
BY_THEMSELVES = (
    "projection first",
    "probabilities",
    "pooled",
    "without batch",
    "two norms",
    "pooled stream",
)
"""Those that hardly compute, so that they need no option."""
STREAMS = ("residual", "two norms", "pooled stream")
"""Heads that read the residual stream without a LayerNorm, or with more than one."""


def compare(path: Path, samples: int = 3) -> tuple[ir.Graph, float]:
    """Both parts in float against ONNX Runtime on the whole; relative to the peak."""
    graph = load_graph(path, partition=True)
    assert graph.host is not None
    x = np.random.default_rng(1).standard_normal((samples, *graph.input_shape[1:]))
    x = x.astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = np.stack(
        [without_batch(session.run(None, {graph.input_name: x[i : i + 1]})[0]) for i in range(3)]
    )
    cuts = {name: cut.astype(np.float32) for name, cut in run_outputs(graph, x).items()}
    part = HostPart(graph.host.model, "the host's part", dict.fromkeys(graph.host.outputs))
    (result,) = part.run(cuts).values()
    assert result.shape == expected.shape
    return graph, float(np.abs(result - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("head", HEADS)
def test_head_is_left_to_the_host(tmp_path: Path, head: str) -> None:
    path = HeadedVit(head=head, mlp="loop").save(tmp_path)
    graph, error = compare(path)
    assert error < 1e-5
    shape, operators = HEADS[head]
    assert graph.heads[0].shape == shape and graph.host is not None
    assert [node.operator for node in graph.host.nodes] == operators
    assert len(graph.layers) == 2 and not graph.notes
    assert graph.heads[0].norm.plain == (head in STREAMS)
    never = False if head in BY_THEMSELVES else None
    with pytest.raises(UserError, match="compile with --partition") as caught:
        load_graph(path, "seg", never)
    assert f"all nodes from {graph.host.nodes[0].name!r} on" in str(caught.value)


def test_normalised_tokens_lose_nothing_to_the_diagonal_layer(tmp_path: Path) -> None:
    graph = load_graph(HeadedVit(head="convolutions").save(tmp_path), partition=True)
    head = graph.heads[0]
    weight = head.linear.weight
    assert np.count_nonzero(weight) == CHANNELS and np.array_equal(
        weight, np.diag(weight.diagonal())
    )
    assert (head.norm.gamma == 1).all() and not head.norm.beta.any()
    assert (head.first_row, head.rows) == (1, PATCHES)  # the class token is not delivered


def test_reasons_and_products_of_the_host(tmp_path: Path) -> None:
    host = load_graph(HeadedVit(head="convolutions").save(tmp_path), partition=True).host
    assert host is not None
    first, second, third, last = host.nodes
    assert first.reason == "padding must be 0"
    assert second.reason == f"it follows {first.name!r} on the host"
    assert third.reason == "there is no unit for Resize"
    assert last.reason == f"it follows {third.name!r} on the host"
    assert host.macs == 2 * 3 * 5 * CHANNELS * 9 + 4 * 6 * 3 * 5
    pooled = load_graph(HeadedVit(head="pooled").save(tmp_path), partition=True).host
    assert pooled is not None and "LayerNorm and one linear layer" in pooled.nodes[0].reason
    branch = load_graph(HeadedVit(head="branch").save(tmp_path), partition=True).host
    assert branch is not None and branch.macs is None


def test_sizes_of_the_backbone_do_not_pull_it_along(tmp_path: Path) -> None:
    graph = load_graph(HeadedVit(head="computed shape").save(tmp_path), partition=True)
    assert graph.host is not None
    model = onnx.load_from_string(graph.host.model)
    assert [value.name for value in model.graph.input] == [graph.heads[0].tensor]
    assert [node.op_type for node in model.graph.node] == ["Conv", "Reshape"]


def test_model_that_fits_stays_whole(tmp_path: Path) -> None:
    vit = Vit(mlp="loop")
    graph = load_graph(vit.save(tmp_path), partition=True)
    assert graph.host is None and graph.heads[0].tensor == vit.nodes[-1].output[0]


def test_tokens_themselves_are_an_output(tmp_path: Path) -> None:
    vit = HeadedVit(head="pooled")
    proto = vit.proto()
    tokens = next(
        node.output[0] for node in vit.nodes[::-1] if node.op_type == "LayerNormalization"
    )
    proto.graph.output[0].name = tokens
    onnx.save(proto, tmp_path / "tokens.onnx")
    graph = load_graph(tmp_path / "tokens.onnx")
    assert graph.host is None and graph.heads[0].shape == (1, 7, CHANNELS)


# -- the reference model by both exporters ------------------------------------------------------

CONFIG = M3ViTConfig(
    height=16, width=24, patch=8, dim=20, depth=2, heads=2, experts=4, expert_hidden=12,
    tasks=(("seg", 3), ("depth", 1)),
)  # fmt: skip


@pytest.mark.parametrize("exporter", ["dynamo", "dynamo, opset 18", "TorchScript, opset 17"])
def test_up_sampling_head_by_every_exporter(tmp_path: Path, exporter: str) -> None:
    model = with_upsample_heads(random_model(CONFIG, 3), width=6, seed=4)
    path = tmp_path / "seg.onnx"
    if exporter == "dynamo":
        export_onnx(model, "seg", path)
    elif exporter == "dynamo, opset 18":
        export_onnx(model, "seg", path, 18)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                SingleTask(model, "seg").eval(), (torch.zeros(1, 3, 16, 24),), str(path),
                dynamo=False, opset_version=17, input_names=["image"], output_names=["seg"],
                dynamic_axes={"image": {0: "batch"}},
            )  # fmt: skip
    graph, error = compare(path)
    assert error < 1e-5
    assert graph.host is not None and graph.heads[0].shape == (1, 20, 2, 3)
    heavy = ("Conv", "Relu", "Resize", "BatchNormalization")
    operators = [node.operator for node in graph.host.nodes if node.operator in heavy]
    plain = [kind for kind in operators if kind != "BatchNormalization"]
    assert plain == ["Conv", "Relu", "Resize"] * 3 + ["Conv"]
    assert all(node.operator != "MatMul" for node in graph.host.nodes)
    assert b"models/" not in graph.host.model  # no stack traces of the export


# -- what cannot be divided ---------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_graph(path, "seg", partition=True)
    text = str(caught.value)
    assert "\n" not in text and "task 'seg'" in text and "--partition finds no cut" in text
    # Where the option does not help, the refusal without it does not mention it.
    with pytest.raises(UserError) as caught:
        load_graph(path, "seg")
    assert "--partition" not in str(caught.value)
    return text


def obstacle(path: Path) -> str:
    """What is said of a layer that the host has, with all behind it: layers in front are taken."""
    graph, error = compare(path)
    assert error < 1e-5 and graph.layers and graph.host is not None
    with pytest.raises(UserError) as caught:
        load_graph(path, "seg", partition=False)
    assert "compile with --partition to leave all nodes from" in str(caught.value)
    return "; ".join(node.reason for node in graph.host.nodes)


def test_features_of_several_layers(tmp_path: Path) -> None:
    vit = HeadedVit(head="several layers")
    graph, error = compare(vit.save(tmp_path))
    assert error < 1e-5 and [head.depth for head in graph.heads] == [1, 2]
    assert len(graph.layers) == 2 and not any(head.norm.plain for head in graph.heads)
    assert graph.host is not None and [n.operator for n in graph.host.nodes][-1] == "Concat"
    part = onnx.load_from_string(graph.host.model).graph
    assert [value.name for value in part.input] == [head.tensor for head in graph.heads]


def test_tokens_and_something_else(tmp_path: Path) -> None:
    vit = HeadedVit(head="tokens and image")
    text = refusal(vit.save(tmp_path))
    assert f"the layer added by node '{vit.nodes[-1].output[0]}' (Add)" in text
    assert "(Sigmoid) must not be added to the residual stream" in text


def test_what_is_added_to_the_stream_is_a_layer(tmp_path: Path) -> None:
    vit = HeadedVit(head="tokens and residual")
    text = obstacle(vit.save(tmp_path))
    assert f"the layer added by node '{vit.nodes[-1].output[0]}' (Add)" in text
    assert "(Sigmoid) must not be added to the residual stream" in text


@pytest.mark.parametrize("kind", ["Sub", "Add", "transposed"])
def test_layer_that_is_not_taken_is_left_to_the_host(tmp_path: Path, kind: str) -> None:
    """Whatever the order of the values that it is added to."""

    class Going(HeadedVit):
        def finish(self, x: str, count: int) -> str:
            if kind == "transposed":
                x = self.transpose(x, 0, 2, 1)
            odd = self.op("Elu", x)
            x = self.op("Add" if kind == "transposed" else kind, x, odd)
            return self.op("ReduceMean", x)

    text = obstacle(Going(head="odd").save(tmp_path))
    assert "Elu" in text


@pytest.mark.parametrize("width", [2, 3, 4, 5, 6])
def test_norms_of_the_head_may_have_any_width(tmp_path: Path, width: int) -> None:
    class Narrow(HeadedVit):
        def finish(self, x: str, count: int) -> str:
            pooled = self.dense(self.op("ReduceMean", x, self.ints(1)), CHANNELS, width)
            gamma = self.const(np.ones(width))
            return self.dense(self.op("LayerNormalization", pooled, gamma), width, 3)

    graph, error = compare(Narrow(head="odd").save(tmp_path))
    assert error < 1e-5 and graph.heads[0].norm.plain and len(graph.layers) == 2


@pytest.mark.parametrize(
    ("options", "why"),
    [({"gelu": "other sigmoid"}, "none of gelu")],
)
@pytest.mark.parametrize("head", ["no norm", "pooled first"])
def test_reason_is_the_layers_and_not_the_heads(
    tmp_path: Path, options: dict[str, str], why: str, head: str
) -> None:
    path = Vit(head=head, **options).save(tmp_path)
    # Attention is the first layer: nothing is in front of it.
    assert why in (refusal(path) if "scale" in options else obstacle(path))


def test_convolutional_stem(tmp_path: Path) -> None:
    vit = HeadedVit(head="convolutions")
    onnx.save(convolutional_stem(vit), tmp_path / "stem.onnx")
    graph = load_graph(tmp_path / "stem.onnx", partition=True)
    assert graph.front is not None and graph.host is not None
    assert "padding must be 0" in graph.front.why


def test_attention_on_a_scaled_stream(tmp_path: Path) -> None:
    vit = HeadedVit(head="convolutions")
    mix = vit.mix
    stream, count = vit.tokens("x")
    vit.tokens = lambda _: (stream, count)  # type: ignore[method-assign]
    scaled = vit.op("Mul", stream, vit.const(2.0))
    vit.mix = lambda normal, count: mix(scaled, count)  # type: ignore[method-assign]
    graph = load_graph(vit.save(tmp_path), partition=True)
    assert graph.front is not None  # it is left to the host with what lies in front
    assert "the layer added by node" in graph.front.why
    assert "the query of attention" in graph.front.why


def test_layers_that_are_not_supported(tmp_path: Path) -> None:
    text = obstacle(HeadedVit(head="convolutions", gelu="other sigmoid").save(tmp_path))
    assert "none of gelu" in text and "(Mul)" in text


def test_layer_with_an_operator_that_is_not_taken(tmp_path: Path) -> None:
    """It is the operator that is named, not the sum that its result is in."""

    class Odd(HeadedVit):
        def activation(self, x: str) -> str:
            return self.op("Elu", x)

    vit = Odd(head="convolutions")
    text = obstacle(vit.save(tmp_path))
    odd = next(node.output[0] for node in vit.nodes if node.op_type == "Elu")
    assert f"holds node '{odd}' (Elu)" in text and "there is no unit for Elu" in text


def test_random_numbers(tmp_path: Path) -> None:
    assert "(RandomNormal) draws random numbers" in refusal(HeadedVit(head="random").save(tmp_path))


def test_output_of_words(tmp_path: Path) -> None:
    class Words(HeadedVit):
        def finish(self, x: str, count: int) -> str:
            return self.op("Cast", self.op("Sigmoid", self.layer_norm(x)), to=TensorProto.STRING)

    proto = Words(head="words").proto()
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    onnx.save(proto, tmp_path / "words.onnx")
    text = refusal(tmp_path / "words.onnx")
    assert f"'{proto.graph.output[0].name}' must hold numbers, not string" in text


def test_two_outputs(tmp_path: Path) -> None:
    proto = HeadedVit(head="convolutions").proto()
    inner = proto.graph.node[-2].output[0]
    proto.graph.output.append(helper.make_tensor_value_info(inner, TensorProto.FLOAT, None))
    onnx.save(proto, tmp_path / "two.onnx")
    graph = load_graph(tmp_path / "two.onnx", partition=True)
    assert graph.host is not None and len(graph.heads) == 1
    assert graph.host.outputs == [value.name for value in proto.graph.output]
    part = onnx.load_from_string(graph.host.model).graph
    assert [value.name for value in part.output] == graph.host.outputs
