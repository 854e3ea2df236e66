"""However a part of a vision transformer is written, the graph read from it computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from moesaic.compiler import ir
from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph
from tests.compiler.onnx_vit import ACTIVATION_FORMS, CHANNELS, HEADS, PATCHES, Vit

FORMS: dict[str, list[str]] = {
    "embed": ["conv", "normalised conv", "unfold", "space to depth", "tokens"],
    "class_token": ["none", "last", "two", "padded", "without position"],
    "linear": ["commuted", "no bias", "from the left", "gemm", "scaled gemm", "einsum"],
    "norm": ["without beta", "arithmetic", "power", "reciprocal", "sum"],
    "attention": [
        "columns interleaved",
        "gather",
        "split",
        "separate",
        "scores transposed",
        "guarded",
        "node 3d",
        "shared keys",
        "fused joint",
        "fused unequal",
        "fused heads",
    ],
    "scale": ["key", "both", "scores", "per head", "none", "fused"],
    "pairs": ["two products", "one product", "factor first"],
    "gelu": [
        "torch",
        "half last",
        "half gate",
        "tanh node",
        "tanh arithmetic",
        "fused",
        "fused with bias",
        "tanh fused",
        *ACTIVATION_FORMS,
    ],
    "mlp": [
        "loop",
        "gather",
        "doubled",
        "sum node",
        "renormalised",
        "softmax after",
        "one-hot",
        "equality",
        "equality where",
        "mask",
        "stacked",
        "stacked einsum",
        "node",
    ],
    "head": ["norm first", "class", "convolution"],
    "stream": ["normalised", "post-norm", "normalised and post-norm"],
    "residual": [
        "branch first",
        "layer scale",
        "constant after",
        "no attention",
        "fused",
        "fused with bias",
        "parallel",
        "parallel norms",
        "parallel in turn",
        "parallel scaled",
        "parallel thrice",
    ],
}


def compare(path: Path, samples: int = 4, seed: int = 1) -> tuple[ir.Graph, float]:
    """Return the graph and the largest difference from ONNX Runtime, relative to the peak."""
    graph = load_graph(path)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, *graph.input_shape[1:])).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = np.concatenate(
        [session.run(None, {graph.input_name: x[i : i + 1]})[0] for i in range(samples)]
    )
    result = run_float(graph, x)
    assert result.shape == expected.shape
    return graph, float(np.abs(result - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(
    ("part", "form"), [(part, form) for part, forms in FORMS.items() for form in forms]
)
def test_form_computes_the_same(tmp_path: Path, part: str, form: str) -> None:
    options: dict[str, Any] = {part: form}
    if form in ("node 3d", "shared keys"):
        options["opset"] = 23
    if part == "linear" and form != "no bias":
        options["mlp"] = "loop"
    graph, error = compare(Vit(**options).save(tmp_path))
    # ONNX Runtime's own mixture of experts takes another tanh.
    assert error < (1e-5 if (part, form) == ("mlp", "node") else 2e-6)
    assert not graph.notes


def test_all_parts_unusual(tmp_path: Path) -> None:
    vit = Vit(
        embed="unfold",
        class_token="two",
        linear="from the left",
        norm="without beta",  # reductions take their axes otherwise in opset 17
        attention="scores transposed",
        scale="both",
        gelu="half last",
        mlp="softmax after",
        head="convolution",
        residual="branch first",
        opset=17,
    )
    _, error = compare(vit.save(tmp_path))
    assert error < 2e-6


def test_structure_is_read_off(tmp_path: Path) -> None:
    graph = load_graph(Vit(class_token="two", mlp="renormalised").save(tmp_path))
    attention, moe = graph.layers
    assert isinstance(attention, ir.Attention) and isinstance(moe, ir.Moe)
    assert (attention.heads, attention.head_dim, attention.value_dim) == (
        HEADS,
        CHANNELS // HEADS,
        CHANNELS // HEADS,
    )
    assert attention.scale == pytest.approx(0.5)
    assert (moe.top_k, moe.renormalise, len(moe.experts)) == (2, True, 4)
    assert all(expert.norm is moe.norm for expert in moe.experts)
    assert (graph.tokens, graph.channels) == (PATCHES + 2, CHANNELS)
    assert (graph.embed.first_row, graph.embed.gather.shape) == (2, (PATCHES, 48))
    assert (graph.heads[0].first_row, graph.heads[0].rows) == (2, PATCHES)
    assert sorted(graph.heads[0].permutation) == list(range(PATCHES * 32))


def test_head_without_a_norm(tmp_path: Path) -> None:
    """The linear layer reads the stream as the last layer leaves it."""
    graph, error = compare(Vit(head="no norm").save(tmp_path))
    assert error < 2e-6 and graph.heads[0].norm.plain
    assert (graph.heads[0].norm.gamma == 1).all() and not graph.heads[0].norm.beta.any()


def test_class_head_keeps_one_row(tmp_path: Path) -> None:
    graph = load_graph(Vit(head="class").save(tmp_path))
    assert (graph.heads[0].first_row, graph.heads[0].rows, graph.heads[0].shape) == (0, 1, (1, 5))


def test_weights_are_unchanged(tmp_path: Path) -> None:
    """Equal tensors of two tasks must stay equal to the bit, so that they are stored once."""
    vit = Vit(scale="both", mlp="loop")
    graph = load_graph(vit.save(tmp_path))
    stored = {t.raw_data for t in vit.constants}
    moe = graph.layers[1]
    assert isinstance(moe, ir.Moe)
    for linear in (moe.gate, moe.experts[3].up, moe.experts[0].down):
        assert np.ascontiguousarray(linear.weight.T).tobytes() in stored
    attention = graph.layers[0]
    assert isinstance(attention, ir.Attention)
    assert np.ascontiguousarray(attention.output.weight.T).tobytes() in stored
    joint = np.concatenate([getattr(attention, n).weight for n in ("query", "key", "value")])
    assert np.ascontiguousarray(joint.T).tobytes() in stored
    assert moe.norm.gamma.tobytes() in stored and moe.experts[1].up.bias.tobytes() in stored


def test_symbolic_batch_is_one(tmp_path: Path) -> None:
    graph = load_graph(Vit(batch="N").save(tmp_path))
    assert graph.input_shape == (1, 3, 8, 12)


class FirstHeadUniform(Vit):
    """The first head's scores count nothing: it averages all values."""

    def op(self, kind: str, *inputs: str, **attributes: Any) -> Any:
        if kind == "Softmax" and not any(node.op_type == "Softmax" for node in self.nodes):
            scales = np.array([0.0, 0.5, 0.9]).reshape(3, 1, 1)
            inputs = (super().op("Mul", *inputs, self.const(scales)),)
        return super().op(kind, *inputs, **attributes)


class HeadByHead(Vit):
    """Attention written head by head, joined by a Concat."""

    def mix(self, x: str, count: int) -> str:
        depth = CHANNELS // HEADS
        contexts = []
        for _ in range(HEADS):
            query, key, value = (self.dense(x, CHANNELS, depth, std=0.6) for _ in range(3))
            turned = self.op("Mul", self.transpose(key, 0, 2, 1), self.const(0.5))
            weights = self.op("Softmax", self.op("MatMul", query, turned), axis=-1)
            contexts.append(self.op("MatMul", weights, value))
        return self.dense(self.op("Concat", *contexts, axis=2), CHANNELS, CHANNELS)


class ScaledEmbedding(Vit):
    """Patches times the root of the channels, as language models have it."""

    def tokens(self, x: str) -> tuple[str, int]:
        tokens, count = super().tokens(x)
        return self.op("Mul", tokens, self.const(CHANNELS**0.5)), count


class GemmEmbedding(Vit):
    """Patches embedded by a Gemm with alpha."""

    def tokens(self, x: str) -> tuple[str, int]:
        rows = self.reshape(x, PATCHES, -1)
        weight, bias = self.draw(48, CHANNELS, std=0.2), self.draw(CHANNELS)
        tokens = self.op("Gemm", rows, self.const(weight), self.const(bias), alpha=3.5, beta=0.5)
        return self.reshape(tokens, 1, PATCHES, CHANNELS), PATCHES


class Doubled(Vit):
    """x + x for 2 * x, in front of the activation and behind a branch."""

    def activation(self, x: str) -> str:
        return super().activation(self.op("Add", x, x))

    def add(self, stream: str, branch: str) -> str:
        return super().add(stream, self.op("Add", branch, branch))


@pytest.mark.parametrize(
    "form", [Doubled, FirstHeadUniform, HeadByHead, ScaledEmbedding, GemmEmbedding]
)
@pytest.mark.parametrize("mlp", ["dense", "loop"])
def test_other_forms(tmp_path: Path, form: type[Vit], mlp: str) -> None:
    class_token = "none" if form is GemmEmbedding else "first"
    graph, error = compare(form(mlp=mlp, class_token=class_token).save(tmp_path))
    assert error < 2e-6
    attention = graph.layers[0]
    assert isinstance(attention, ir.Attention) and attention.heads == HEADS
