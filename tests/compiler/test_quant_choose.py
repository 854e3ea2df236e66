"""Ranges are chosen by what they cost at the task's output."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from moesaic.compiler import ir
from moesaic.compiler.quant import QuantOptions
from moesaic.compiler.quant.calibrate import calibrate
from moesaic.compiler.quant.choose import choose_clips, rounded
from moesaic.compiler.quant.share import SharedPoints
from moesaic.compiler.rewrite import fold_norms
from tests.compiler.quant_models import random_graph, random_samples
from tests.compiler.test_rewrite import held_out_db


def spiky(graph: ir.Graph, *, read: bool) -> ir.Graph:
    """The graph with a hidden unit of the first MLP that is huge for some tokens.

    Either nothing but this unit is read, or all but this.
    """
    layers = list(graph.layers)
    mlp = layers[1]
    assert isinstance(mlp, ir.Mlp)
    up, down = mlp.up.weight.copy(), mlp.down.weight.copy()
    up[0] *= 12
    down[:, 1:] *= not read
    down[:, 0] *= read
    layers[1] = replace(mlp, up=replace(mlp.up, weight=up), down=replace(mlp.down, weight=down))
    return replace(graph, layers=layers)


def chosen(graph: ir.Graph, samples: np.ndarray) -> tuple[float, float, float]:
    """Largest magnitude, clip of least squares and chosen clip of the first hidden rows."""
    graphs, given = {"seg": fold_norms(graph)}, {"seg": samples}
    shared = SharedPoints(graphs)
    statistics = calibrate(graphs, given, shared)
    key = shared.find("seg", "1.hidden")
    seen = statistics.ranges[key]
    return seen.maximum, seen.best_clip(), choose_clips(graphs, given, shared, statistics)[key]


def test_a_huge_activation_is_kept_where_it_matters_and_cut_where_not() -> None:
    samples = random_samples(count=8)
    largest, least_squares, kept = chosen(spiky(random_graph(), read=True), samples)
    assert least_squares < 0.9 * largest and kept == pytest.approx(largest)
    largest, least_squares, cut = chosen(spiky(random_graph(), read=False), samples)
    assert cut == pytest.approx(least_squares) and cut < 0.9 * largest


def test_every_point_that_least_squares_would_cut_is_decided() -> None:
    samples = random_samples(count=4)
    graphs, given = {"seg": fold_norms(random_graph())}, {"seg": samples}
    shared = SharedPoints(graphs)
    statistics = calibrate(graphs, given, shared)
    clips = choose_clips(graphs, given, shared, statistics)
    cut = {
        key
        for key, seen in statistics.ranges.items()
        if seen.best_clip() < seen.maximum and not key[1].endswith(("residual", "output", "logits"))
    }
    assert len(cut) > 10 and cut <= set(clips)
    assert not any(point.endswith(("residual", "output", "logits")) for _, point in clips)
    for key, clip in clips.items():
        assert 0 < clip <= statistics.ranges[key].maximum * (1 + 1e-9), key


def test_codes_are_those_of_the_point() -> None:
    values = torch.tensor([-9.0, -1.28, -0.17, 0.0, 0.004, 0.006, 1.27, 9.0])
    signed = [-1.28, -1.28, -0.17, 0, 0, 0.01, 1.27, 1.27]
    assert rounded(values, 1.27).tolist() == pytest.approx(signed)
    mlp = random_graph().layers[1]
    assert isinstance(mlp, ir.Mlp)
    for activation, lowest in (("gelu", 0.17), ("relu", 0.0), ("silu", 0.2785)):
        hidden = rounded(values, 1.27, replace(mlp, activation=activation))
        step = (1.27 + lowest) / 255  # from the lowest value on
        assert -lowest - step <= hidden.min() <= -min(lowest, 0.17) + step
        assert hidden.max() == pytest.approx(1.27, abs=step)
        assert hidden[3] == 0
    paired = rounded(values, 1.27, replace(mlp, factor=mlp.up))  # of any sign
    assert paired.tolist() == pytest.approx(signed)


def test_one_constant_frame_among_the_samples_changes_little() -> None:
    graph, samples = random_graph(), random_samples(count=8)
    flat = samples.copy()
    flat[3] = 0.25
    with_it, without = (held_out_db(graph, given, QuantOptions()) for given in (flat, samples))
    assert with_it >= 25 and with_it > without - 1
