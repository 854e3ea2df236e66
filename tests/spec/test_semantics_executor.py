"""The executor against a second implementation in plain Python integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesaic.spec.execute import Executor
from moesaic.spec.intgraph import IntAttention, IntDense, IntLayer, IntMlp, IntMoe, Scale
from tests.compiler.random_intgraph import Shape, random_intgraph, random_patches
from tests.spec import plain_executor

SHAPES = {
    "mixed": Shape(tokens=6, patches=5, head_rows=5, moe=(False, True)),
    "from_host": Shape(tokens=6, head_rows=5, from_host=True),
    "top_1": Shape(tokens=4, patches=3, head_rows=3, moe=(True,), top_k=1, experts=3),
    "renormalised": Shape(
        tokens=5, patches=4, head_rows=4, moe=(True,), top_k=3, experts=4, renormalise=True
    ),
    "unequal_heads": Shape(
        tokens=5, patches=4, head_rows=4, heads=2, head_dim=5, value_dim=9, moe=(False,)
    ),
    "all_16_bits": Shape(tokens=5, patches=4, head_rows=4, moe=(False, True), wide=1.0),
    "begins_anew": Shape(tokens=5, patches=4, head_rows=4, moe=(False, True), renorm=1.0),
    "all_8_bits": Shape(tokens=5, patches=4, head_rows=4, moe=(False, True), wide=0.0),
    "some_16_bits": Shape(tokens=5, patches=4, head_rows=4, moe=(True, False, True), wide=0.5),
    "taps": Shape(tokens=5, patches=4, head_rows=4, moe=(False, True), taps=0.7),
    "taps_begin_anew": Shape(tokens=5, patches=4, head_rows=4, moe=(True,), taps=1.0, renorm=0.5),
    "rotary": Shape(tokens=5, patches=4, head_rows=4, moe=(False, True), rotary=1.0, wide=0.5),
    "parallel": Shape(tokens=5, patches=4, head_rows=4, moe=(True, False), parallel=(1, 3)),
    "lists": Shape(tokens=7, patches=6, head_rows=7, head_first=0, moe=(False,) * 3, lists=1.0),
    "four_on_one_norm": Shape(
        tokens=5, patches=4, head_rows=4, moe=(False, True), parallel=(1, 2, 3), wide=0.5
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_executor_equals_plain_integers(name: str) -> None:
    graph = random_intgraph(SHAPES[name], seed=len(name))
    x = random_patches(graph, 2, seed=3)
    got = Executor(graph).run(x)
    want = np.stack([plain_executor.run(graph, frame) for frame in x])
    assert got.dtype == np.int16 and (got == want).all()
    assert len(np.unique(got)) > got.size // 4, "the graph's outputs are nearly constant"


FORMS = [
    *((IntAttention, form) for form in ("rows", "query", "attended")),
    *(
        (kind, form)
        for kind in (IntDense, IntMoe)
        for form in ("rows", "hidden", "some hidden", "offset")
    ),
]


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_form_of_any_layer_changes_the_output(kind: type, form: str) -> None:
    """So none of the fields goes unheeded by what the test above compares."""
    graph = random_intgraph(replace(SHAPES["all_8_bits"], moe=(False, True)), seed=4)
    if form == "attended":  # in a step so fine that eight bits do not hold all of them
        layers = (
            replace(x, scale=Scale.of(8 * x.scale.value)) if isinstance(x, IntAttention) else x
            for x in graph.layers
        )
        graph = replace(graph, layers=tuple(layers))

    def mlp(part: IntMlp) -> IntMlp:
        if form == "hidden":
            return replace(part, wide=part.up.outputs, offset=0)
        if form == "some hidden":
            return replace(part, wide=part.up.outputs // 2)
        return replace(part, offset=part.offset ^ 37)

    def changed(layer: IntLayer) -> IntLayer:
        if not isinstance(layer, kind):
            return layer
        if form == "rows":
            return replace(layer, wide=True)
        if isinstance(layer, IntAttention):
            return replace(layer, **{f"wide_{form}": True})
        if isinstance(layer, IntDense):
            return replace(layer, mlp=mlp(layer.mlp))
        assert isinstance(layer, IntMoe)
        return replace(layer, experts=tuple(mlp(expert) for expert in layer.experts))

    other = replace(graph, layers=tuple(changed(layer) for layer in graph.layers))
    x = random_patches(graph, 1, seed=3)
    before, after = Executor(graph).run(x), Executor(other).run(x)
    assert (before != after).any()
    assert (after[0] == plain_executor.run(other, x[0])).all()


def test_frames_do_not_influence_each_other() -> None:
    graph = random_intgraph(SHAPES["mixed"], seed=1)
    x = random_patches(graph, 3, seed=2)
    executor = Executor(graph)
    together = executor.run(x)
    assert (executor.run(x[2:]) == together[2:]).all()


def test_one_changed_bias_changes_the_output() -> None:
    graph = random_intgraph(replace(SHAPES["mixed"], taps=1.0), seed=1)
    x = random_patches(graph, 1, seed=2)
    before = Executor(graph).run(x)
    linear = graph.heads[0].linear
    bias = linear.bias.copy()
    bias[0] += 1 << 20
    head = replace(graph.heads[0], linear=replace(linear, bias=bias))
    after = Executor(replace(graph, heads=(head, *graph.heads[1:]))).run(x)
    mine, *others = zip(graph.split_codes(before), graph.split_codes(after), strict=True)
    assert (mine[0][..., 0] != mine[1][..., 0]).any()
    assert (mine[0][..., 1:] == mine[1][..., 1:]).all()
    assert len(others) > 2 and all(np.array_equal(*other) for other in others)
