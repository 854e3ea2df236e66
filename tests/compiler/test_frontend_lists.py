"""Experts by a token's place or modality: layers of some of the tokens, or refused."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moesaic.compiler import ir
from moesaic.compiler.frontend import load_graph
from moesaic.models.zoo.mixture_lists import FIRST, LISTS, Modalities, Multiway, VLMo
from moesaic.models.zoo.mixtures import (
    CHANNELS,
    EXPERTS,
    SIDE,
    Attention,
    Block,
    Mixture,
    MixtureViT,
    mlp,
    softmax_first,
)
from moesaic.spec.errors import UserError
from tests.compiler.validated import compare, read_validated

TOKENS = 17
HALVES = [range(FIRST), range(FIRST, TOKENS)]
BY_PLACE = {e: [t for t in range(TOKENS) if t * 7 % EXPERTS == e] for e in range(EXPERTS)}
WANTED = {
    "multiway": HALVES,
    "vlmo": HALVES,
    "class-token": [range(1), range(1, TOKENS)],
    "class-token-alone": [range(1)],
    "hash-scatter": [BY_PLACE[e] for e in range(EXPERTS - 1)],
    "hash-where": [[t for t in range(TOKENS) if t * 5 % EXPERTS == e] for e in range(EXPERTS)],
}


def export(model: nn.Module, folder: Path, dynamo: bool = False) -> Path:
    """Write a model of the zoo."""
    path = folder / "model.onnx"
    options = {"external_data": False, "verbose": False} if dynamo else {"opset_version": 17}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        x = torch.randn(1, 3, SIDE, SIDE)
        torch.onnx.export(model.eval(), (x,), path, dynamo=dynamo, input_names=["x"], **options)
    return path


def lists_of(graph: ir.Graph) -> list[list[int]]:
    """Tokens of the layers behind attention, by the first of them."""
    layers = graph.layers[1:]
    assert all(isinstance(layer, ir.Mlp) and layer.tokens is not None for layer in layers)
    return sorted(layer.tokens.tolist() for layer in layers)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "dynamo"), [*((name, False) for name in LISTS), ("vlmo", True), ("hash-where", True)]
)
def test_lists(tmp_path: Path, name: str, dynamo: bool) -> None:
    torch.manual_seed(1)
    path = export(LISTS[name](), tmp_path, dynamo)
    graph, validation = read_validated(path)
    assert graph.host is None and validation.points == 4
    assert lists_of(graph) == sorted(map(list, WANTED[name]))
    # All of them are one update: one norm, and no stream between them.
    count = len(graph.layers) - 2
    assert [layer.parallel for layer in graph.layers] == [False, False, *[True] * count]
    # Lists that are not the file's would be noticed.
    layer = graph.layers[-1]
    assert isinstance(layer, ir.Mlp) and layer.tokens is not None
    layer.tokens = (layer.tokens + 1) % TOKENS
    with pytest.raises(UserError, match="was not recognised for what it is"):
        compare(graph, path)


def test_norms_of_modalities_are_their_own(tmp_path: Path) -> None:
    """Gamma and beta of each; the norm without them is one."""
    model = MixtureViT(Modalities(), VLMo)
    graph = load_graph(export(model, tmp_path))
    for layer, norm in zip(graph.layers[1:], model.block.mixture.norms, strict=True):  # type: ignore[arg-type]
        np.testing.assert_array_equal(layer.norm.gamma, norm.weight.detach().numpy())


class Epsilons(Modalities):
    """LayerNorms that divide by something else."""

    def __init__(self) -> None:
        super().__init__()
        self.norms[1].eps = 1e-3


def test_other_epsilons_need_residuals_of_their_own(tmp_path: Path) -> None:
    """Two updates, one behind the other, may differ in it; branches of one may not."""
    graph, _ = read_validated(export(MixtureViT(Epsilons(), VLMo), tmp_path))
    assert [layer.parallel for layer in graph.layers] == [False] * 3
    assert lists_of(graph) == [list(part) for part in HALVES]
    with pytest.raises(UserError, match="give both norms one"):
        load_graph(export(MixtureViT(Epsilons(), Multiway), tmp_path))


class TwoBlocks(nn.Module):
    """What one block leaves is the next one's stream."""

    def __init__(self, kind: type[Block]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(kind(Modalities()), kind(Modalities()))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out


class Whole(Block):
    """The mixture is all of it."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mixture(x)
        return out


@pytest.mark.parametrize("kind", [Multiway, VLMo])
def test_blocks_behind_one_another(tmp_path: Path, kind: type[Block]) -> None:
    graph, validation = read_validated(export(MixtureViT(TwoBlocks(kind), Whole), tmp_path))
    assert [ir.layer_kind(layer) for layer in graph.layers] == ["attention", "dense", "dense"] * 2
    assert [layer.parallel for layer in graph.layers] == [False, False, True] * 2
    assert validation.points == 6


class Overlap(VLMo):
    """The second part reads tokens that the first has changed."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        experts, norms = self.mixture.experts, self.mixture.norms  # type: ignore[union-attr]
        x = torch.cat([x[:, :9] + experts[0](norms[0](x[:, :9])), x[:, 9:]], 1)  # type: ignore[index,operator]
        return torch.cat([x[:, :4], x[:, 4:] + experts[1](norms[1](x[:, 4:]))], 1)  # type: ignore[index,operator]


def test_updates_that_depend_on_each_other_are_not_parallel(tmp_path: Path) -> None:
    graph, _ = read_validated(export(MixtureViT(Modalities(), Overlap), tmp_path))
    assert [layer.parallel for layer in graph.layers] == [False] * 3
    assert lists_of(graph) == [list(range(9)), list(range(4, TOKENS))]


class Constants(nn.Module):
    """A constant beside each of two lists, one for each."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = mlp(), mlp()
        self.register_buffer("offset", torch.randn(2, CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.one(x[:, :5]), self.other(x[:, 5:])], 1)
        return both + self.offset[[0] * 5 + [1] * 12]


def test_constants_beside_lists_go_into_their_biases(tmp_path: Path) -> None:
    graph, _ = read_validated(export(MixtureViT(Constants()), tmp_path))
    assert lists_of(graph) == [list(range(5)), list(range(5, TOKENS))]


class ConstantAlone(nn.Module):
    """One for tokens that no layer adds to."""

    def __init__(self) -> None:
        super().__init__()
        self.one = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x[:, :5]), torch.ones(1, 12, CHANNELS)], 1)


class OtherTokens(nn.Module):
    """Two tables that disagree: what is taken from some tokens is put back at others."""

    def __init__(self) -> None:
        super().__init__()
        self.one = mlp()

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        total[:, [1, 5, 7]] = self.one(x[:, [1, 5, 8]])
        return total


class Graded(nn.Module):
    """A weight for each token, whatever the data are."""

    def __init__(self) -> None:
        super().__init__()
        self.one = mlp()
        self.register_buffer("weights", torch.rand(TOKENS, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) * self.weights


class ClassAttention(nn.Module):
    """Attention among some of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Attention()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.inner(x[:, :6]), torch.zeros(1, 11, CHANNELS)], 1)


class Some(nn.Module):
    """A mixture of some of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Mixture(softmax_first)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros(1, 1, CHANNELS), self.inner(x[:, 1:])], 1)


@pytest.mark.parametrize(
    ("mixture", "why"),
    [
        (ConstantAlone, "a constant is added to tokens that no layer adds anything to"),
        (OtherTokens, "takes the tokens in another order"),
        (Graded, "its scale differs between tokens"),
        (ClassAttention, "only an MLP may work on some of the tokens"),
        (Some, "only an MLP may work on some of the tokens"),
    ],
)
def test_refused(tmp_path: Path, mixture: type[nn.Module], why: str) -> None:
    with pytest.raises(UserError) as caught:
        load_graph(export(MixtureViT(mixture()), tmp_path))
    assert why in str(caught.value) and "\n" not in str(caught.value)
