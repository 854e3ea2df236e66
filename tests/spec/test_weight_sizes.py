"""Bits and bytes of weights, part by part, in the order of parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesaic.spec.graph_sizes import parts
from moesaic.spec.graphcheck import linears
from moesaic.spec.intgraph import IntHead, IntMoe, IntTokens
from moesaic.spec.weight_sizes import WeightSizes, weight_sizes
from tests.compiler.random_intgraph import Shape, in_few_bits, random_intgraph


def test_parts_have_their_own_sizes() -> None:
    shape = Shape(tokens=12, patches=11, head_rows=5, moe=(False, True), taps=1.0)
    plain = random_intgraph(shape, 1)
    everything = parts(plain.embed, plain.layers, plain.heads)
    kinds = [isinstance(part, IntHead) for part in everything]
    assert sum(kinds) > 1 and kinds != sorted(kinds), "heads stand between layers"
    sizes = weight_sizes(plain)
    assert {one.bits for one in sizes} == {(8,)}
    weights = sum(linear.weight.size for _, linear, *_ in linears(plain))
    assert sum(one.size_bytes for one in sizes) == weights
    for part, one in zip(everything, sizes, strict=True):
        if isinstance(part, IntHead):
            assert one == WeightSizes((8,), part.linear.weight.size)


def test_fewer_bits_are_told_where_they_are() -> None:
    plain = random_intgraph(Shape(moe=(False, True)), 2)
    rng = np.random.default_rng(0)
    layers = [
        replace(layer, experts=in_few_bits(layer.experts, rng)) if isinstance(layer, IntMoe)
        else layer
        for layer in plain.layers
    ]  # fmt: skip
    few = replace(plain, layers=tuple(layers))
    everything = parts(few.embed, few.layers, few.heads)
    for before, after, part in zip(weight_sizes(plain), weight_sizes(few), everything, strict=True):
        if isinstance(part, IntMoe):
            gate = part.gate.weight.size
            assert after == WeightSizes((4, 8), gate + (before.size_bytes - gate) // 2)
        else:
            assert after == before and after.bits == (8,)


def test_rows_from_the_host_have_no_weights() -> None:
    graph = random_intgraph(Shape(from_host=True), 3)
    assert isinstance(graph.embed, IntTokens)
    assert weight_sizes(graph)[0] == WeightSizes()
