"""What stages may take for granted: each rule is broken once, and the stage is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from moesaic.compiler import ir
from moesaic.compiler.verify import verify, verify_integers
from tests.compiler.quant_models import random_graph

from .random_intgraph import Shape, random_intgraph


@pytest.fixture
def graph() -> ir.Graph:
    """Attention, an MLP and a mixture."""
    return random_graph()


def first(graph: ir.Graph, kind: type) -> ir.Layer:
    return next(layer for layer in graph.layers if isinstance(layer, kind))


def narrow(linear: ir.Linear) -> None:
    linear.weight = linear.weight[:, 1:]


def short_norm(norm: ir.Norm) -> None:
    norm.beta = norm.beta[1:]


def with_codes(linear: ir.Linear) -> None:
    linear.given = replace(linear.given, codes=np.zeros((1, 1), np.int8))


def damage(name: str, graph: ir.Graph) -> None:
    attention, dense = first(graph, ir.Attention), first(graph, ir.Mlp)
    moe, head, embed = first(graph, ir.Moe), graph.heads[0], graph.embed
    assert isinstance(attention, ir.Attention) and isinstance(dense, ir.Mlp)
    assert isinstance(moe, ir.Moe) and isinstance(embed, ir.Embed)
    channels, tokens = graph.channels, graph.tokens
    kinds: dict[str, Callable[[], object]] = {
        "embed": lambda: narrow(embed.linear),
        "gather": lambda: embed.gather.__setitem__((0, 0), 1 << 40),
        "patches": lambda: setattr(embed, "first_row", tokens),
        "query": lambda: narrow(attention.query),
        "output": lambda: narrow(attention.output),
        "heads": lambda: setattr(attention, "heads", attention.heads + 1),
        "angles": lambda: setattr(
            attention, "rotary", ir.Rotary(*(np.ones((tokens + 1, 1), np.float32),) * 2)
        ),
        "norm": lambda: short_norm(attention.norm),
        "parallel": lambda: setattr(graph.layers[0], "parallel", True),
        "activation": lambda: setattr(dense, "activation", "step"),
        "down": lambda: narrow(dense.down),
        "factor": lambda: setattr(dense, "factor", dense.down),
        "tokens ascend": lambda: setattr(dense, "tokens", np.array([2, 1])),
        "tokens": lambda: setattr(dense, "tokens", np.array([tokens])),
        "bias": lambda: setattr(dense.up, "bias", dense.up.bias[1:]),
        "codes": lambda: with_codes(dense.up),
        "top_k": lambda: setattr(moe, "top_k", len(moe.experts) + 1),
        "expert": lambda: narrow(moe.experts[-1].up),
        "expert's norm": lambda: setattr(moe.experts[0], "norm", replace(moe.norm, epsilon=1.0)),
        "gate": lambda: moe.experts.pop(),
        "corrections": lambda: setattr(moe, "corrections", np.zeros(1, np.float32)),
        "renorm": lambda: graph.layers.append(
            ir.Renorm(moe.norm, ir.Linear(np.eye(3), np.zeros(channels), "square"), "renorm")
        ),
        "rows": lambda: setattr(head, "rows", tokens + 1),
        "layout": lambda: head.permutation.__setitem__(0, head.rows * head.linear.outputs),
        "shape": lambda: setattr(head, "permutation", head.permutation[1:]),
        "depth": lambda: setattr(head, "depth", len(graph.layers) + 1),
        "no outputs": lambda: graph.heads.clear(),
    }
    kinds[name]()


KINDS = (
    "embed", "gather", "patches", "query", "output", "heads", "angles", "norm", "parallel",
    "activation", "down", "factor", "tokens ascend", "tokens", "bias", "codes", "top_k", "expert",
    "expert's norm", "gate", "corrections", "renorm", "rows", "layout", "shape", "depth",
    "no outputs",
)  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_broken_rules_name_the_stage(name: str, graph: ir.Graph) -> None:
    assert verify(graph, "reading") is graph
    damage(name, graph)
    with pytest.raises(AssertionError, match="behind rotating: "):
        verify(graph, "rotating")


def test_integers_are_held_to_the_rules_of_a_bundle() -> None:
    graph = random_intgraph(Shape())
    assert verify_integers(graph, "rounding") is graph
    graph.gather[0, 0] = 1 << 40
    with pytest.raises(AssertionError, match="behind rounding: "):
        verify_integers(graph, "rounding")
