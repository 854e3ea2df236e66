"""Several layers in one residual update: branches on one norm, or on norms of one stream."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from moesaic.compiler import ir
from moesaic.compiler.frontend import load_graph
from moesaic.spec.errors import UserError
from tests.compiler.onnx_odd import OddVit
from tests.compiler.onnx_vit import CHANNELS, HEADS, HIDDEN, Vit
from tests.compiler.test_frontend_forms import compare
from tests.compiler.validated import compare as validated
from tests.compiler.validated import read_validated

FORMS = ["parallel", "parallel norms", "parallel in turn", "parallel scaled", "parallel thrice"]
MIXTURES = ["dense", "loop", "mask", "renormalised", "softmax after", "stacked", "stacked einsum"]


@pytest.mark.parametrize("residual", FORMS)
@pytest.mark.parametrize("mlp", MIXTURES)
def test_branches_compute_the_same(tmp_path: Path, residual: str, mlp: str) -> None:
    graph, error = compare(Vit(residual=residual, mlp=mlp).save(tmp_path))
    assert error < 2e-6
    kinds = [ir.layer_kind(layer) for layer in graph.layers]
    added = ["dense"] * (residual == "parallel thrice")
    assert kinds == ["attention", *added, "dense" if mlp == "dense" else "moe"]
    behind = len(kinds) - 1
    assert [layer.parallel for layer in graph.layers] == [False, *[True] * behind]
    assert [stream is not None for stream in graph.streams] == [True, *[False] * behind, True]


class SharedExperts(Vit):
    """A mixture, and an MLP that every token goes through, on one norm behind attention."""

    def shared(self, x: str) -> str:
        return self.perceptron(x)

    def feed_forward(self, x: str, count: int) -> str:
        return self.op("Add", self.mixture(x, count), self.shared(x))


class Scaled(SharedExperts):
    """DeepSpeed's residual mixture with a coefficient that is the same for all tokens."""

    def shared(self, x: str) -> str:
        return self.op("Mul", super().shared(x), self.const(0.3))


@dataclass
class Gated(SharedExperts):
    """As Qwen2-MoE: shared experts have a gate of their own."""

    twice: bool = False

    def shared(self, x: str) -> str:
        gate = self.op("Sigmoid", self.op("MatMul", x, self.const(self.draw(CHANNELS, 1))))
        if self.twice:
            gate = self.op("Sigmoid", gate)
        return self.op("Mul", gate, super().shared(x))


class Coefficients(SharedExperts):
    """DeepSpeed's residual mixture: a softmax of two weighs both for each token."""

    def feed_forward(self, x: str, count: int) -> str:
        both = self.op("MatMul", x, self.const(self.draw(CHANNELS, 2)))
        both = self.op("Softmax", both, axis=-1)
        mixed = self.op("Mul", self.mixture(x, count), self.slice(both, 2, 0, 1))
        return self.op("Add", mixed, self.op("Mul", self.shared(x), self.slice(both, 2, 1, 2)))


@pytest.mark.parametrize("form", [SharedExperts, Scaled])
@pytest.mark.parametrize("mlp", ["loop", "node", "renormalised", "stacked"])
def test_shared_experts(tmp_path: Path, form: type[Vit], mlp: str) -> None:
    graph, error = compare(form(mlp=mlp).save(tmp_path))
    assert error < (1e-5 if mlp == "node" else 2e-6)
    assert [type(layer) for layer in graph.layers] == [ir.Attention, ir.Mlp, ir.Moe]
    assert [layer.parallel for layer in graph.layers] == [False, False, True]


@pytest.mark.parametrize("mlp", ["loop", "node", "renormalised"])
def test_shared_experts_with_a_gate(tmp_path: Path, mlp: str) -> None:
    """They are a mixture of one expert, whose weight is a sigmoid."""
    path = Gated(mlp=mlp).save(tmp_path)
    graph, error = compare(path)
    assert error < (1e-5 if mlp == "node" else 2e-6)
    assert [type(layer) for layer in graph.layers] == [ir.Attention, ir.Moe, ir.Moe]
    assert [layer.parallel for layer in graph.layers] == [False, False, True]
    (gated,) = [la for la in graph.layers if isinstance(la, ir.Moe) and la.sigmoid]
    assert len(gated.experts) == gated.top_k == 1 and not gated.renormalise
    read_validated(path)


class Twice(Vit):
    """Two attentions at once, then two MLPs, each with a norm of its own."""

    def branches(self, x: str, count: int) -> str:
        for branch in (lambda y: self.mix(y, count), self.perceptron):
            x = self.op("Add", x, self.op("Add", *(branch(self.layer_norm(x)) for _ in range(2))))
        return x


def test_two_attentions_then_two_mlps(tmp_path: Path) -> None:
    graph, found = read_validated(Twice(residual="parallel").save(tmp_path))
    assert [type(layer) for layer in graph.layers] == [ir.Attention] * 2 + [ir.Mlp] * 2
    assert [layer.parallel for layer in graph.layers] == [False, True] * 2
    assert [stream is not None for stream in graph.streams] == [True, False, True, False, True]
    assert found.points == 4 and found.worst < 0.25


class OneProjection(Vit):
    """Attended and hidden rows side by side into one output projection."""

    def branches(self, x: str, count: int) -> str:
        rows, depth, parts = self.layer_norm(x), CHANNELS // HEADS, []
        for _ in range(HEADS):
            query, key, value = (self.dense(rows, CHANNELS, depth, std=0.6) for _ in range(3))
            scores = self.op("MatMul", query, self.transpose(key, 0, 2, 1))
            parts.append(self.op("MatMul", self.op("Softmax", scores, axis=-1), value))
        parts.insert(1, self.activation(self.dense(rows, CHANNELS, HIDDEN)))
        joint = self.op("Concat", *parts, axis=2)
        return self.op("Add", x, self.dense(joint, CHANNELS + HIDDEN, CHANNELS))


@pytest.mark.parametrize("linear", ["matmul", "gemm", "no bias"])
@pytest.mark.parametrize("gelu", ["node", "torch"])
def test_one_output_projection_for_both(tmp_path: Path, linear: str, gelu: str) -> None:
    vit = OneProjection(residual="parallel", linear=linear, gelu=gelu)
    graph, error = compare(vit.save(tmp_path))
    attention, mlp = graph.layers
    assert error < 2e-6 and mlp.parallel
    assert isinstance(attention, ir.Attention) and isinstance(mlp, ir.Mlp)
    assert (attention.heads, mlp.up.outputs) == (HEADS, HIDDEN)
    if linear == "matmul":  # the bias is there once
        assert attention.output.bias.any() and not mlp.down.bias.any()


REFUSED: dict[str, tuple[Callable[[], Vit], str]] = {
    "two gates": (lambda: Gated(mlp="loop", twice=True), "(Sigmoid) weighs a branch token by"),
    "coefficients": (lambda: Coefficients(mlp="loop"), "(Softmax) weighs a branch token by token"),
    "epsilons": (
        lambda: Vit(residual="parallel epsilons"),
        "must be the same, not 1e-06 and 1e-05",
    ),
    "activation of one": (
        lambda: OddVit(odd="1.001 gelu", residual="parallel"),
        "differs from gelu",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_branch_is_refused_for_what_it_is(tmp_path: Path, name: str) -> None:
    make, why = REFUSED[name]
    with pytest.raises(UserError) as caught:
        load_graph(make().save(tmp_path))
    assert why in str(caught.value) and "the layer added by" in str(caught.value)
    assert "\n" not in str(caught.value)


def _one_after_the_other(graph: ir.Graph) -> None:
    graph.layers[1].parallel = False


def _one_left_out(graph: ir.Graph) -> None:
    del graph.layers[1], graph.streams[1]


def _other_gamma(graph: ir.Graph) -> None:
    graph.layers[1].norm.gamma[3] *= 1.01


MISREAD: dict[str, tuple[Callable[[ir.Graph], None], str]] = {
    "one after the other": (_one_after_the_other, "layer 1 at"),
    "one left out": (_one_left_out, "layer 0 at"),
    "gamma of the second": (_other_gamma, "one of the parallel layers 0 to 1 at"),
}


@pytest.mark.parametrize("name", MISREAD)
@pytest.mark.parametrize("mlp", ["dense", "loop"])
def test_misread_branches_are_found(tmp_path: Path, name: str, mlp: str) -> None:
    path = Vit(residual="parallel norms", mlp=mlp).save(tmp_path)
    graph, _ = read_validated(path)
    mutate, where = MISREAD[name]
    wrong = copy.deepcopy(graph)
    mutate(wrong)
    with pytest.raises(UserError) as caught:
        validated(wrong, path)
    assert where in str(caught.value)


@pytest.mark.parametrize("seed", range(3))
def test_ties_do_not_excuse_the_branch_beside(tmp_path: Path, seed: int) -> None:
    """A tie that goes the other way changes its own token alone: attention reads what is in front
    of the mixture, not behind it."""
    path = OddVit(odd="tie", mlp="loop", residual="parallel", seed=seed).save(tmp_path)
    graph, found = read_validated(path, seed)
    assert found.worst < 0.25 and not found.near_ties
    attention = graph.layers[0]
    assert isinstance(attention, ir.Attention)
    attention.scale *= 1.05
    with pytest.raises(UserError, match="one of the parallel layers 0 to 1 at"):
        validated(graph, path, seed)
