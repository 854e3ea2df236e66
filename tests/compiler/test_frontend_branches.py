"""Several layers in one residual update: branches on one norm, or on norms of one stream."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesaic.compiler import ir
from tests.compiler.onnx_vit import CHANNELS, Vit
from tests.compiler.test_frontend_forms import compare

FORMS = ["parallel", "parallel norms", "parallel in turn", "parallel scaled", "parallel thrice"]
MIXTURES = ["dense", "loop", "mask", "renormalised", "softmax after", "stacked", "stacked einsum"]


@pytest.mark.parametrize("residual", FORMS)
@pytest.mark.parametrize("mlp", MIXTURES)
def test_branches_compute_the_same(tmp_path: Path, residual: str, mlp: str) -> None:
    graph, error = compare(Vit(residual=residual, mlp=mlp).save(tmp_path))
    assert error < 2e-6
    kinds = [ir.layer_kind(layer) for layer in graph.layers]
    added = ["dense"] * (residual == "parallel thrice")
    assert sorted(kinds) == sorted(["attention", "dense" if mlp == "dense" else "moe", *added])
    assert [layer.parallel for layer in graph.layers] == [False, *[True] * (len(kinds) - 1)]
    assert [stream is not None for stream in graph.streams] == [True, *[False] * len(added), True][
        :1
    ] + [False] * (len(kinds) - 1) + [True]


class SharedExperts(Vit):
    """A mixture, and an MLP that every token goes through, on one norm behind attention."""

    def feed_forward(self, x: str, count: int) -> str:
        return self.op("Add", self.mixture(x, count), self.perceptron(x))


class GatedExperts(SharedExperts):
    """As Qwen2-MoE: the shared experts weighed by a gate of their own."""

    def perceptron(self, x: str) -> str:
        if len(self.nodes) < 40:
            return super().perceptron(x)
        gate = self.op("Sigmoid", self.op("MatMul", x, self.const(self.draw(CHANNELS, 1))))
        return self.op("Mul", gate, super().perceptron(x))


@pytest.mark.parametrize("mlp", ["loop", "node", "renormalised", "stacked"])
def test_shared_experts(tmp_path: Path, mlp: str) -> None:
    graph, error = compare(SharedExperts(mlp=mlp).save(tmp_path))
    assert error < (2e-3 if mlp == "node" else 2e-6)
    assert [type(layer) for layer in graph.layers] == [ir.Attention, ir.Moe, ir.Mlp]
    assert [layer.parallel for layer in graph.layers] == [False, False, True]
