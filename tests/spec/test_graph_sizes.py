"""Sizes of an integer graph, counted in another way than the code does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesaic.spec.graph_sizes import count_macs, part_macs
from moesaic.spec.intgraph import Scale
from tests.compiler.random_intgraph import Shape, random_intgraph


@pytest.mark.parametrize("top_k", [1, 3])
def test_macs_of_every_layer(top_k: int) -> None:
    shape = Shape(
        pairs=0.0,
        tokens=9, patches=8, patch_inputs=20, channels=24, heads=3, head_dim=7, value_dim=5,
        hidden=40, expert_hidden=20, experts=5, top_k=top_k, moe=(False, True), outputs=30,
        head_rows=6, taps=0.0,
    )  # fmt: skip
    graph = random_intgraph(shape, seed=4)
    projections = 9 * 24 * (2 * 3 * 7 + 3 * 5) + 9 * 3 * 5 * 24
    attention = projections + 3 * 9 * 9 * (7 + 5)
    dense, moe = 2 * 9 * 24 * 40, 9 * 24 * 5 + top_k * 2 * 9 * 24 * 20
    expected = [8 * 20 * 24, attention, dense, attention, moe, 6 * 24 * 30]
    assert part_macs(graph.embed, graph.layers, graph.heads, 8) == expected
    assert count_macs(graph.embed, graph.layers, graph.heads, 8) == sum(expected) == graph.macs


def test_macs_of_a_single_expert() -> None:
    graph = random_intgraph(
        Shape(tokens=9, experts=1, top_k=1, moe=(True,), pairs=0.0, taps=0.0), seed=4
    )
    macs = part_macs(graph.embed, graph.layers, graph.heads, 8)
    assert macs[2] == 9 * 24 * 1 + 2 * 9 * 24 * 20


def test_sizes_are_those_of_the_arrays() -> None:
    graph = random_intgraph(Shape(tokens=9, channels=24), seed=4)
    assert (graph.tokens, graph.channels) == (9, 24)
    linear = replace(graph.heads[0].linear, weight=np.zeros((4, 11), np.int8))
    assert (linear.outputs, linear.inputs) == (4, 11)


@pytest.mark.parametrize(
    "value, multiplier, shift",
    [
        (0.0, 0, 0), (1.0, 32768, 15), (0.5, 32768, 16), (65535.0, 65535, 0), (32768.0, 32768, 0),
        (3.0, 49152, 14), (1 - 2.0**-17, 32768, 15), (1 - 2.0**-16, 65535, 16),
        (2.0**-48, 32768, 63), (2.0**-49, 16384, 63), (2.0**-63, 1, 63), (2.0**-64, 0, 63),
        (1.5 * 2.0**-63, 1, 63), (65534.6, 65535, 0), (40000.4, 40000, 0),
    ],
)  # fmt: skip
def test_scale_of(value: float, multiplier: int, shift: int) -> None:
    assert Scale.of(value) == Scale(multiplier, shift)
    assert Scale(multiplier, shift).value == multiplier / 2**shift
