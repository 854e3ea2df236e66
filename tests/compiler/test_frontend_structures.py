"""Mixtures with gates, experts and dispatch of their own: whole, or on the host for a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from moesaic.compiler import ir
from moesaic.compiler.frontend import load_graph
from moesaic.models.zoo.mixture_structures import STRUCTURES, DeepSeekV3, Gate
from moesaic.models.zoo.mixtures import TOP_K, chosen
from moesaic.spec.errors import UserError
from tests.compiler.test_frontend_mixtures import export, mixture_of
from tests.compiler.validated import compare, read_validated

ON_THE_HOST = {
    "corrected-softmax": "only sigmoids can be corrected for the choice",
    "deepseek-v3-groups": "mixes what was looked up for several chosen experts",
    "gpt-oss": "it clips to None .. 7.0",
    "low-rank": "follows a linear layer without an activation",
    "residual": "weighs a branch token by token without a choice",
    "slots": "counts, and drop the others",
    "sorted": "it must choose the largest",
    "zero-experts": "not from a linear layer",
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure(tmp_path: Path, name: str) -> None:
    path = export(STRUCTURES[name](), tmp_path, dynamo=True)
    graph = load_graph(path, partition=True)
    compare(graph, path)
    if name not in ON_THE_HOST:
        assert graph.host is None
        assert name == "hash" or any(isinstance(layer, ir.Moe) for layer in graph.layers)
        return
    assert graph.host is not None and [type(layer) for layer in graph.layers] == [ir.Attention]
    assert ON_THE_HOST[name] in "; ".join(node.reason for node in graph.host.nodes)
    with pytest.raises(UserError, match="compile with --partition"):
        load_graph(path)


def test_deepseek_v3(tmp_path: Path) -> None:
    """Corrections are the file's, and another choice would be noticed."""
    model = DeepSeekV3()
    path = export(model, tmp_path, dynamo=True)
    graph, _ = read_validated(path)
    moe = mixture_of(graph)
    assert (moe.sigmoid, moe.renormalise, moe.top_k) == (True, True, TOP_K)
    assert moe.corrections is not None
    torch.testing.assert_close(torch.from_numpy(moe.corrections), model.bias)
    moe.corrections = -moe.corrections
    with pytest.raises(UserError, match="was not recognised for what it is"):
        compare(graph, path)


class Clamped(Gate):
    """A sum that is clipped where it can be less."""

    def table(self, logits: Tensor) -> Tensor:
        """Logits [T, E] to weights [T, E]."""
        table = chosen(logits.softmax(-1))
        return table / table.sum(-1, keepdim=True).clamp_min(0.3)


class Halved(Gate):
    """Exponentials over the sum of others."""

    def table(self, logits: Tensor) -> Tensor:
        """Logits [T, E] to weights [T, E]."""
        return chosen((logits * 0.5).exp() / logits.exp().sum(-1, keepdim=True))


@pytest.mark.parametrize(
    ("mixture", "why"),
    [(Clamped, "clips gate weights"), (Halved, "softmax or their sigmoids are supported")],
)
def test_what_only_looks_like_it(tmp_path: Path, mixture: type[nn.Module], why: str) -> None:
    with pytest.raises(UserError) as caught:
        load_graph(export(mixture(), tmp_path, dynamo=True))
    assert why in str(caught.value)
