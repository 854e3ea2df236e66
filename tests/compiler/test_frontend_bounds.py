"""Graphs that are no transformer, endless, or huge: refused in a sentence, soon and cheaply."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from moesaic.compiler.frontend import load_graph
from moesaic.spec.errors import UserError
from tests.compiler.onnx_vit import CHANNELS, Vit

SECONDS = 20.0
"""Of processor time: far more than any of these takes, far less than a hang."""


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No test here may take long, or a gigabyte more than there was."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


def refusal(path: Path, partition: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        load_graph(path, partition=partition)
    text = str(caught.value)
    assert "\n" not in text and "Error(" not in text
    return text


def save(
    tmp_path: Path,
    nodes: list[onnx.NodeProto],
    shape: list[int],
    constants: dict[str, np.ndarray] | None = None,
) -> Path:
    """Save a graph from `x` to the last node's output."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


@pytest.mark.parametrize("partition", [False, True])
def test_perceptron_without_any_norm(tmp_path: Path, partition: bool) -> None:
    draw = np.random.default_rng(0).standard_normal
    constants = {name: draw((8, 8)).astype(np.float32) for name in "ab"}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"]),
    ]
    refusal(save(tmp_path, nodes, [1, 4, 8], constants), partition)


class RmsVit(Vit):
    """Every norm divides by the root of the mean square and takes no mean off."""

    def layer_norm(self, x: str, epsilon: float = 1e-6) -> str:
        square = self.op("ReduceMean", self.op("Mul", x, x), self.ints(-1))
        root = self.op("Sqrt", self.op("Add", square, self.const(epsilon)))
        return self.op("Mul", self.op("Div", x, root), self.const(1 + self.draw(CHANNELS)))


@pytest.mark.parametrize("partition", [False, True])
@pytest.mark.parametrize("mlp", ["dense", "loop"])
def test_transformer_without_layer_norm(tmp_path: Path, mlp: str, partition: bool) -> None:
    refusal(RmsVit(mlp=mlp).save(tmp_path), partition)


@pytest.mark.parametrize("partition", [False, True])
@pytest.mark.parametrize("shape", [[6, 48], [1, 48], [48], [1]])
def test_input_of_few_axes(tmp_path: Path, shape: list[int], partition: bool) -> None:
    vit = Vit(embed="tokens")
    proto = vit.proto()
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    text = refusal(path, partition)
    if shape[0] != 1:
        assert f"a fixed batch of {shape[0]} frames" in text and "for a batch of 1" in text


def test_flat_input(tmp_path: Path) -> None:
    """One axis besides the batch is as good as three."""
    vit = Vit()
    vit.tokens_of = vit.tokens  # type: ignore[attr-defined]
    shaped = vit.reshape("x", 1, 3, 8, 12)
    vit.tokens = lambda _: vit.tokens_of(shaped)  # type: ignore[method-assign, attr-defined]
    proto = vit.proto()
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 288]))
    onnx.save(proto, tmp_path / "flat.onnx")
    assert load_graph(tmp_path / "flat.onnx").input_shape == (1, 288)


def test_input_of_a_trillion_elements(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    assert "at most" in refusal(save(tmp_path, nodes, [1, 10**6, 10**6]))


EXPANSIONS = {
    "Tile": ({}, [1, 10**6, 100]),
    "Expand": ({}, [10**6, 16, 16]),
    "Pad": ({}, [0, 0, 0, 0, 0, 10**8]),
    "ConstantOfShape": ({}, [10**5, 10**5]),
}


@pytest.mark.parametrize("kind", EXPANSIONS)
def test_expansion(tmp_path: Path, kind: str) -> None:
    attributes, sizes = EXPANSIONS[kind]
    constants = {"n": np.array(sizes, np.int64)}
    inputs = ["n"] if kind == "ConstantOfShape" else ["x", "n"]
    nodes = [
        helper.make_node(kind, inputs, ["v"], name="the culprit", **attributes),
        helper.make_node("Relu", ["v"], ["y"]),
    ]
    text = refusal(save(tmp_path, nodes, [1, 16, 16], constants))
    assert "the culprit" in text and "elements" in text


def test_outer_sum(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "c"], ["u"]),
        helper.make_node("Reshape", ["x", "r"], ["v"]),
        helper.make_node("Add", ["u", "v"], ["y"], name="the culprit"),
    ]
    constants = {"c": np.array([1, -1, 1]), "r": np.array([1, 1, -1])}
    text = refusal(save(tmp_path, nodes, [1, 100, 200], constants))
    assert "the culprit" in text and "elements" in text


@pytest.mark.parametrize("kind", ["Add", "Mul"])
@pytest.mark.parametrize("place", ["activation", "stream"])
@pytest.mark.parametrize("steps", [14, 60])
def test_chain_of_doubled_values(tmp_path: Path, kind: str, place: str, steps: int) -> None:
    """2 to the power of `steps` ways lead through it; work must not grow with them."""

    class Chained(Vit):
        def chain(self, x: str) -> str:
            for _ in range(steps):
                x = self.op(kind, x, x)
            return x

        def activation(self, x: str) -> str:
            return self.chain(x) if place == "activation" else super().activation(x)

        def add(self, stream: str, branch: str) -> str:
            return super().add(self.chain(stream) if place == "stream" else stream, branch)

    refusal(Chained().save(tmp_path))


def test_chain_of_growing_formulas(tmp_path: Path) -> None:
    """y * y + y has twice the terms of y: 16 times, and one product would have 4 billion."""

    class Grown(Vit):
        def activation(self, x: str) -> str:
            for _ in range(16):
                x = self.op("Add", self.op("Mul", x, x), x)
            return x

    assert "too many terms" in refusal(Grown().save(tmp_path))


def test_chain_of_sums_of_sums(tmp_path: Path) -> None:
    """Sums whose terms are moved about: no two are the same, and each has two of the one before."""

    class Chained(Vit):
        def add(self, stream: str, branch: str) -> str:
            total = super().add(stream, branch)
            for _ in range(16):
                turned = self.op(
                    "Concat", self.slice(total, 2, 1, 99), self.slice(total, 2, 0, 1), axis=2
                )
                total = self.op("Add", total, turned)
            return total

    refusal(Chained().save(tmp_path))


def test_deep_chain(tmp_path: Path) -> None:
    """Deeper than Python's stack."""

    class Deep(Vit):
        def activation(self, x: str) -> str:
            for _ in range(3000):
                x = self.op("Tanh", x)
            return x

    refusal(Deep().save(tmp_path))


def test_damaged_initializer(tmp_path: Path) -> None:
    proto = Vit().proto()
    proto.graph.initializer[0].raw_data = b"1234"
    onnx.save(proto, tmp_path / "model.onnx")
    assert "is damaged" in refusal(tmp_path / "model.onnx")


@pytest.mark.parametrize("kind", ["Conv", "Resize", "MaxPool"])
def test_slow_operator_on_constants(tmp_path: Path, kind: str) -> None:
    """ONNX's reference evaluator computes these element by element: minutes for a megapixel."""
    image = np.random.default_rng(0).standard_normal((1, 3, 512, 512)).astype(np.float32)
    constants = {"i": image, "w": np.ones((4, 3, 5, 5), np.float32), "e": np.zeros(0, np.float32)}
    constants["s"] = np.array([1, 1, 2, 2], np.float32)
    nodes = {
        "Conv": helper.make_node("Conv", ["i", "w"], ["v"]),
        "Resize": helper.make_node("Resize", ["i", "", "s"], ["v"], mode="cubic"),
        "MaxPool": helper.make_node("MaxPool", ["i"], ["v"], kernel_shape=[5, 5]),
    }
    sums = helper.make_node("ReduceSum", ["v"], ["t"], keepdims=0)
    last = helper.make_node("Add", ["x", "t"], ["y"])
    refusal(save(tmp_path, [nodes[kind], sums, last], [1, 4, 8], constants))
