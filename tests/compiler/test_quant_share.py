"""Tensors of shared layers come out identical, the rest stays its task's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from moesaic.compiler import ir
from moesaic.compiler.quant import quantise, quantise_tasks
from moesaic.compiler.quant.share import SharedPoints
from moesaic.compiler.rewrite.fold import fold_norms
from moesaic.models.m3vit import random_model
from moesaic.spec.intgraph import IntGraph, IntLinear, IntMoe
from tests.compiler.quant_models import SMALL, float_graph, random_samples

TASKS = ("seg", "depth")


@pytest.fixture(scope="module")
def graphs() -> dict[str, ir.Graph]:
    model = random_model(SMALL, 5)
    return {task: float_graph(model, task) for task in TASKS}


@pytest.fixture(scope="module")
def quantised(graphs: dict[str, ir.Graph]) -> dict[str, IntGraph]:
    samples = random_samples(count=3)
    return quantise_tasks(graphs, {task: samples for task in TASKS})[0]


def linears(node: object, path: str = "") -> Iterator[tuple[str, IntLinear]]:
    """All integer linear layers below a node, by path."""
    if isinstance(node, IntLinear):
        yield path, node
    elif isinstance(node, tuple):
        for number, part in enumerate(node):
            yield from linears(part, f"{path}.{number}")
    elif is_dataclass(node):
        for field in fields(node):
            yield from linears(getattr(node, field.name), f"{path}.{field.name}")


def equal(one: IntLinear, other: IntLinear) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in fields(IntLinear)
    )


def test_only_gates_and_heads_differ(quantised: dict[str, IntGraph]) -> None:
    seg, depth = (dict(linears(quantised[task])) for task in TASKS)
    assert seg.keys() == depth.keys()
    different = {path for path in seg if not equal(seg[path], depth[path])}
    gates = {
        f".layers.{number}.gate"
        for number, layer in enumerate(quantised["seg"].layers)
        if isinstance(layer, IntMoe)
    }
    assert different == gates | {".head.linear"} and gates


def test_first_residual_and_scales_agree(quantised: dict[str, IntGraph]) -> None:
    seg, depth = quantised["seg"], quantised["depth"]
    assert np.array_equal(seg.embed.initial, depth.embed.initial)
    assert seg.residual_scale == depth.residual_scale
    assert seg.input_scale == depth.input_scale
    assert seg.heads[0].scale != depth.heads[0].scale


def test_shared_scales_cover_both_tasks(graphs: dict[str, ir.Graph]) -> None:
    samples = random_samples(count=2)
    small = quantise(graphs["seg"], samples, "seg")[0]
    # The other task's samples are five times as large, so the common input step is, too.
    both = quantise_tasks(graphs, {"seg": samples, "depth": 5 * samples})[0]
    assert both["seg"].input_scale > 4 * small.input_scale


def test_one_changed_weight_unshares_only_its_layer(graphs: dict[str, ir.Graph]) -> None:
    layers = list(graphs["depth"].layers)
    dense = next(number for number, layer in enumerate(layers) if isinstance(layer, ir.Mlp))
    mlp = layers[dense]
    assert isinstance(mlp, ir.Mlp)
    weight = mlp.down.weight.copy()
    weight[0, 0] += 0.5
    layers[dense] = replace(mlp, down=replace(mlp.down, weight=weight))
    changed = {"seg": graphs["seg"], "depth": replace(graphs["depth"], layers=layers)}
    samples = random_samples(count=2)
    built = quantise_tasks(changed, {task: samples for task in TASKS})[0]
    seg, depth = (dict(linears(built[task])) for task in TASKS)
    different = {path for path in seg if not equal(seg[path], depth[path])}
    moved = {path for path in different if not path.endswith((".gate", ".head.linear"))}
    assert moved == {f".layers.{dense}.mlp.down"}


def test_the_stream_shares_no_range_with_normalised_rows(graphs: dict[str, ir.Graph]) -> None:
    """Not even in front of equal heads."""
    normalised = fold_norms(graphs["seg"])
    norm = replace(normalised.heads[0].norm, plain=True)
    stream = replace(normalised, head=replace(normalised.heads[0], norm=norm))
    for other, together in ((normalised, True), (stream, False)):
        shared = SharedPoints({"a": normalised, "b": other})
        assert (shared.find("a", "head.norm") == shared.find("b", "head.norm")) == together
        assert shared.find("a", "0.norm") == shared.find("b", "0.norm")


def test_strangers_share_nothing_but_the_residual_scale() -> None:
    one = fold_norms(float_graph(random_model(SMALL, 1), "seg"))
    other = fold_norms(float_graph(random_model(SMALL, 2), "seg"))
    shared = SharedPoints({"a": one, "b": other})
    assert shared.find("a", "residual") == shared.find("b", "residual")
    for point in ("input", "0.norm", "0.query", "1.hidden", "3.expert0.hidden", "output"):
        assert shared.find("a", point) != shared.find("b", point)
