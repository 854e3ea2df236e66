"""Exact rewrites: the same function, and tensors that lose less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from moesaic.compiler import ir
from moesaic.compiler.float_reference import run_float
from moesaic.compiler.points import map_linears, sites
from moesaic.compiler.quant import QuantOptions, quantise, quantise_tasks, rewrite_tasks
from moesaic.compiler.rewrite import centre, check_rewritten, equalise, fold_norms, rotate_residual
from moesaic.compiler.rewrite.rotate import rotation
from moesaic.models.m3vit import random_model
from moesaic.models.metrics import sqnr_db
from moesaic.spec.errors import UserError
from moesaic.spec.execute import Executor
from moesaic.spec.hostside import quantise_input
from tests.compiler.quant_models import SMALL, float_graph, random_graph, random_samples
from tests.outputs import only_output

OPTIONS = ("rotate", "centre", "equalise")


def points(graph: ir.Graph, samples: np.ndarray) -> dict[str, np.ndarray]:
    """Point to its rows [*, features]."""
    seen: dict[str, list[torch.Tensor]] = {}

    def note(point: str, value: torch.Tensor) -> None:
        seen.setdefault(point, []).append(value.flatten(0, -2))

    run_float(graph, samples, note)
    return {point: torch.cat(values).numpy() for point, values in seen.items()}


WIDE = replace(SMALL, dim=320, experts=3, expert_hidden=48, mlp_ratio=0.5)
"""A value can be sqrt(320) = 17.9 times the root mean square of its row at most."""


def like_pretrained(task: str, seed: int = 0) -> ir.Graph:
    """A random model with what training does to weights: key biases of 50, and a channel of the
    residual stream so large that normalised rows reach 13 to 17 times their rms."""
    random = np.random.default_rng(seed)
    graph = float_graph(random_model(WIDE, seed), task)
    huge = int(random.integers(graph.channels))
    initial = graph.embed.initial.copy()
    initial[:, huge] += random.choice([-1, 1], len(initial)) * random.uniform(20, 50, len(initial))

    def stretched(norm: ir.Norm) -> ir.Norm:
        # What is left for all other channels is small: networks learn to read it all the same.
        gamma = norm.gamma * 3
        gamma[huge] /= 6
        return replace(norm, gamma=gamma)

    layers: list[ir.Layer] = []
    for layer in graph.layers:
        norm = stretched(layer.norm)
        if isinstance(layer, ir.Attention):
            bias = layer.key.bias + random.uniform(-50, 50, layer.key.outputs).astype(np.float32)
            layer = replace(layer, norm=norm, key=replace(layer.key, bias=bias))
        elif isinstance(layer, ir.Moe):
            experts = [replace(expert, norm=norm) for expert in layer.experts]
            layer = replace(layer, norm=norm, experts=experts)
        else:
            layer = replace(layer, norm=norm)
        layers.append(layer)
    head = replace(graph.heads[0], norm=stretched(graph.heads[0].norm))
    embed = replace(graph.embed, initial=initial)
    return replace(graph, layers=layers, heads=[head], embed=embed, streams=[])


@pytest.mark.parametrize("channels", [1, 2, 3, 40, 192])
def test_rotation_is_orthogonal_and_keeps_equal_channels(channels: int) -> None:
    turn = rotation(channels)
    assert np.allclose(turn @ turn.T, np.eye(channels), atol=1e-12)
    assert np.allclose(turn.sum(1), 1, atol=1e-12)
    assert np.array_equal(turn, rotation(channels))
    if channels > 3:
        assert np.abs(turn).max() < 0.9  # it mixes


def test_map_linears_reaches_every_site_once() -> None:
    graph = random_graph()
    doubled = map_linears(graph, lambda site: replace(site.linear, weight=2 * site.linear.weight))
    before, after = [*sites(graph)], [*sites(doubled)]
    assert [site.role for site in before] == [site.role for site in after]
    for one, two in zip(before, after, strict=True):
        assert np.array_equal(2 * one.linear.weight, two.linear.weight), one.role


@pytest.mark.parametrize("make", [random_graph, lambda: like_pretrained("seg")])
@pytest.mark.parametrize("kept", [*OPTIONS, "all"])
def test_rewrites_keep_the_function(make: Callable[[], ir.Graph], kept: str) -> None:
    graph, samples = make(), random_samples(count=4)
    off = [name for name in OPTIONS if kept not in (name, "all")]
    rewritten = rewrite_tasks({"seg": graph}, {"seg": samples}, QuantOptions().without(off))["seg"]
    assert check_rewritten("seg", graph, rewritten, samples) >= 95
    plain = fold_norms(graph)
    changed = [
        site.role
        for site, old in zip(sites(rewritten), sites(plain), strict=True)
        if not np.array_equal(site.linear.weight, old.linear.weight)
        or not np.array_equal(site.linear.bias, old.linear.bias)
    ]
    # It did something, but random weights are not worth a rotation.
    assert bool(changed) == (kept != "rotate" or make is not random_graph)


def test_a_wrong_rewrite_is_refused() -> None:
    graph, samples = random_graph(), random_samples(count=2)
    attention = graph.layers[0]
    assert isinstance(attention, ir.Attention)
    bias = attention.value.bias.copy()
    bias[3] += 0.05
    layers = [replace(attention, value=replace(attention.value, bias=bias)), *graph.layers[1:]]
    with pytest.raises(UserError, match="task 'seg'.*--without rotate"):
        check_rewritten("seg", graph, replace(graph, layers=layers), samples)


def test_rotation_spreads_outliers() -> None:
    graph, samples = fold_norms(like_pretrained("seg")), random_samples(count=4)
    peak = {}
    for name, one in (("plain", graph), ("rotated", rotate_residual(graph))):
        rows = points(one, samples)["2.norm"]
        peak[name] = np.abs(rows).max()  # normalised rows: in units of their rms
    assert 13 < peak["plain"] < 17.9 and peak["rotated"] < 6


def test_keys_and_values_have_no_mean_when_centred() -> None:
    graph, samples = fold_norms(like_pretrained("seg")), random_samples(count=4)
    seen = points(graph, samples)
    centred = points(centre(graph, lambda point: seen[point].mean(0)), samples)
    for point in ("0.key", "0.value", "2.key", "2.value"):
        assert np.abs(seen[point].mean(0)).max() > 0.1
        assert np.abs(centred[point].mean(0)).max() < 1e-3, point
    assert np.abs(seen["0.key"]).max() > 45 > 30 > np.abs(centred["0.key"]).max()


def test_channels_have_equal_ranges_when_equalised() -> None:
    graph, samples = fold_norms(random_graph(seed=5)), random_samples(count=4)
    attention = graph.layers[0]
    assert isinstance(attention, ir.Attention)
    stretch = np.geomspace(0.1, 10, attention.key.outputs).astype(np.float32)
    key = replace(attention.key, weight=attention.key.weight * stretch[:, None])
    graph = replace(graph, layers=[replace(attention, key=key), *graph.layers[1:]])
    seen = points(graph, samples)
    after = points(equalise(graph, lambda point: np.abs(seen[point]).max(0)), samples)
    key, query = (np.abs(after[f"0.{part}"]).max(0) for part in ("key", "query"))
    assert np.allclose(key, query, rtol=1e-3)
    both = np.sqrt(np.abs(after["0.value"]).max(0) * np.abs(after["0.attention"]).max(0))
    assert np.allclose(both, both[0], rtol=1e-3)


def test_dead_channels_are_left_alone() -> None:
    graph, samples = fold_norms(random_graph()), random_samples(count=2)
    attention = graph.layers[0]
    assert isinstance(attention, ir.Attention)
    weight, bias = attention.query.weight.copy(), attention.query.bias.copy()
    weight[2], bias[2] = 0, 0
    dead = replace(attention, query=ir.Linear(weight, bias, "query"))
    graph = replace(graph, layers=[dead, *graph.layers[1:]])
    seen = points(graph, samples)
    after = equalise(graph, lambda point: np.abs(seen[point]).max(0))
    for site in sites(after):
        assert np.isfinite(site.linear.weight).all() and np.isfinite(site.linear.bias).all()
    assert check_rewritten("seg", graph, after, samples) > 95


def held_out_db(graph: ir.Graph, samples: np.ndarray, options: QuantOptions) -> float:
    integer, _ = quantise(graph, samples, "seg", options)
    fresh = random_samples(seed=77, count=6)
    got = only_output(integer, Executor(integer).run(quantise_input(integer, fresh)))
    return sqnr_db(run_float(graph, fresh), got)


def test_stream_is_rotated_where_values_stand_out_and_for_all_tasks_alike() -> None:
    samples = random_samples(count=4)
    even = {task: random_graph(task=task) for task in ("seg", "depth")}
    uneven = {"seg": like_pretrained("seg"), "depth": even["depth"]}
    for graphs, rotates in ((even, False), (uneven, True)):
        tasks = dict.fromkeys(graphs, samples)
        result = rewrite_tasks(graphs, tasks, QuantOptions().without(["centre", "equalise"]))
        for task, graph in graphs.items():
            as_it_was = np.array_equal(
                result[task].heads[0].linear.weight, fold_norms(graph).heads[0].linear.weight
            )
            assert as_it_was != rotates, task


def test_what_training_does_to_weights_needs_the_rewrites() -> None:
    """Key biases of 50 and rows with outliers; each rewrite that they call for pays by itself."""
    samples, graph = random_samples(count=12), like_pretrained("seg")
    with_all = held_out_db(graph, samples, QuantOptions())
    for names, least in ((OPTIONS, 7), (["rotate"], 5), (["centre"], 2)):
        without = held_out_db(graph, samples, QuantOptions().without(names))
        assert without < with_all - least, names
    assert with_all >= 18


def test_two_tasks_keep_sharing_what_they_share() -> None:
    samples = random_samples(count=4)
    graphs = {task: random_graph(task=task) for task in ("seg", "depth")}
    built, _ = quantise_tasks(graphs, {task: samples for task in graphs})
    seg, depth = built["seg"].layers[0], built["depth"].layers[0]
    for part in ("query", "key", "value", "output"):
        assert getattr(seg, part) is getattr(depth, part), part


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UserError, match="--without takes rotate, centre.*not 'turn'"):
        QuantOptions().without(["turn"])


def test_what_is_left_out_is_noted() -> None:
    _, report = quantise(
        random_graph(), random_samples(), "seg", QuantOptions().without(["rotate", "correct"])
    )
    assert "quantised without rotate, correct" in report.notes
    _, report = quantise(random_graph(), random_samples(), "seg")
    assert not any("without" in note for note in report.notes)
