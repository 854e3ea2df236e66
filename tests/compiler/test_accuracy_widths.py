"""16-bit rows: the most decibels for the cycles, within what was asked for."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from moesaic.compiler import ir
from moesaic.compiler.accuracy.analysis import analyse
from moesaic.compiler.accuracy.sizes import alike, cycles, widened
from moesaic.compiler.accuracy.widths import Goal, choose_widths
from moesaic.compiler.estimate.tuning import choose_schedule
from moesaic.compiler.quant import Calibrated, QuantOptions
from moesaic.compiler.quant.build import may_be_wide
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS
from tests.compiler.quant_models import dense_graph, random_samples
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.compiler.test_rewrite import like_pretrained

ARCH = PRESETS["nano"]


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    graphs = {task: dense_graph(task=task) for task in ("seg", "depth")}
    samples = dict.fromkeys(graphs, random_samples(count=8))
    return Calibrated(graphs, samples, QuantOptions())


def least(calibrated: Calibrated) -> float:
    return min(report.sqnr_db for report in calibrated.build()[1].values())


def test_a_target_is_reached_and_both_tasks_store_shared_weights_once(
    calibrated: Calibrated,
) -> None:
    target = least(calibrated) + 1.5
    (graphs, reports), chosen = choose_widths(calibrated, calibrated.build(), ARCH, Goal(target))
    assert chosen and all(report.sqnr_db >= target for report in reports.values())
    for task, report in reports.items():
        wide = {name for name, point in report.points.items() if point.bits == 16}
        assert wide - {"residual", "output"} <= set(may_be_wide(calibrated.graphs[task]))
    # The layers that both share have the same points in 16 bits, and so the same tensors.
    for one, other in zip(graphs["seg"].layers, graphs["depth"].layers, strict=True):
        assert one.wide == other.wide
    assert graphs["seg"].embed.linear is graphs["depth"].embed.linear


def test_rows_in_16_bits_that_do_not_help_are_not_taken(
    calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = plain, before = calibrated.build()
    worse = {task: replace(report, sqnr_db=report.sqnr_db - 0.1) for task, report in before.items()}
    monkeypatch.setattr(calibrated, "build", lambda wide: (plain, worse))
    assert choose_widths(calibrated, built, ARCH, Goal(more=0.5)) == (built, [])


def test_a_target_that_eight_bits_reach_is_not_searched_for(
    calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = calibrated.build()
    monkeypatch.setattr("moesaic.compiler.accuracy.widths.candidates_for", None)
    assert choose_widths(calibrated, built, ARCH, Goal(5.0)) == (built, [])


def test_a_budget_is_kept_and_more_of_it_gives_more(calibrated: Calibrated) -> None:
    plain = calibrated.build()[0]
    schedules = {task: choose_schedule(graph, ARCH) for task, graph in plain.items()}
    before = least(calibrated)
    found = []
    for more in (0.0, 0.04, 0.5):
        (graphs, reports), _ = choose_widths(calibrated, calibrated.build(), ARCH, Goal(more=more))
        for task, graph in graphs.items():
            limit = (1 + more) * cycles(plain[task], ARCH, schedules[task])
            assert cycles(graph, ARCH, choose_schedule(graph, ARCH)) <= limit
        found.append(min(report.sqnr_db for report in reports.values()))
    assert found[0] == before and found[0] < found[1] < found[2]


def test_out_of_reach_is_refused_with_how_far_it_went(calibrated: Calibrated) -> None:
    with pytest.raises(UserError, match=r"task \w+ reaches .* dB with .* not 90: ask for less"):
        choose_widths(calibrated, calibrated.build(), ARCH, Goal(90.0))
    graph = dense_graph()
    graph.layers[1].up.weight[[2, 30]] *= 12  # type: ignore[union-attr]
    alone = Calibrated({"seg": graph}, {"seg": random_samples(count=8)}, QuantOptions())
    with pytest.raises(UserError, match=r"with all \d+ points") as refused:
        choose_widths(alone, alone.build(), ARCH, Goal(90.0))
    named = int(re.search(r"all (\d+) points", str(refused.value))[1])  # type: ignore[index]
    assert named <= len(set(may_be_wide(alone.graphs["seg"])))  # those of hidden rows once
    plain = calibrated.build()[0]["seg"]
    few = cycles(plain, ARCH, choose_schedule(plain, ARCH))
    with pytest.raises(UserError, match=r"with all \d points .* not 90"):
        choose_widths(calibrated, calibrated.build(), ARCH, Goal(90.0, cycles=few))
    for target in (None, 90.0, 1.0):
        with pytest.raises(UserError, match=f"seg takes {few} cycles without any 16-bit rows"):
            choose_widths(calibrated, calibrated.build(), ARCH, Goal(target, cycles=few // 2))


def test_what_training_does_to_weights_reaches_25_db_with_16_bit_rows() -> None:
    """Key biases of 50, rows with outliers of 13 to 17 rms, two tasks; docs/accuracy.md."""
    graphs = {task: like_pretrained(task) for task in ("seg", "depth")}
    samples = random_samples(count=24)
    pretrained = Calibrated(
        graphs,
        dict.fromkeys(graphs, samples[:16]),
        QuantOptions(),
        dict.fromkeys(graphs, samples[16:]),
    )
    arch = PRESETS["zcu102"]
    plain = pretrained.build()
    (wide, reports), points = choose_widths(pretrained, plain, arch, Goal(25.0))
    assert points and all(report.sqnr_db >= 25 and report.held_out for report in reports.values())
    for task, graph in plain[0].items():
        schedule = choose_schedule(graph, arch)
        assert cycles(wide[task], arch, schedule) <= 1.02 * cycles(graph, arch, schedule)


def test_layers_of_other_heads_are_not_alike() -> None:
    """Their weights have the same shape, but other padding and other softmax rows."""
    shape = Shape(heads=2, head_dim=12, value_dim=12)
    graphs = [
        random_intgraph(one, values=False)
        for one in (shape, replace(shape, heads=3, head_dim=8, value_dim=8))
    ]
    assert len({graph.layers[0].query.weight.shape for graph in graphs}) == 1  # type: ignore[union-attr]
    assert alike(graphs[0], "0.attention") != alike(graphs[1], "0.attention")
    assert alike(graphs[0], "0.attention") == alike(graphs[0], "2.attention")


def test_sizes_of_widened_graphs_are_those_of_built_ones(calibrated: Calibrated) -> None:
    plain = calibrated.build()[0]["seg"]
    schedule = choose_schedule(plain, ARCH)
    for point in dict.fromkeys(may_be_wide(calibrated.graphs["seg"])):
        for name in [point, f"{point}:20"] if point.endswith("hidden") else [point]:
            real = calibrated.build({"seg": {name}})[0]["seg"]
            guess = widened(plain, [name])
            assert cycles(guess, ARCH, schedule) == cycles(real, ARCH, schedule), name
            assert cycles(guess, ARCH, schedule) > cycles(plain, ARCH, schedule), name


def test_of_hidden_rows_with_outliers_a_few_channels_have_16_bits() -> None:
    """For a part of the cycles that all of them would take."""
    graph = dense_graph()
    layer = graph.layers[1]
    assert isinstance(layer, ir.Mlp)
    layer.up.weight[[2, 30]] *= 12
    layer.down.weight[:, [2, 30]] /= 4
    samples = random_samples(count=24)
    pretrained = Calibrated(
        {"seg": graph}, {"seg": samples[:16]}, QuantOptions(), {"seg": samples[16:]}
    )
    plain = pretrained.build()
    (wide, reports), points = choose_widths(pretrained, plain, ARCH, Goal(more=0.03))
    assert "1.hidden:16" in points, points
    assert reports["seg"].sqnr_db > plain[1]["seg"].sqnr_db + 2
    assert reports["seg"].points["1.hidden"].wide_channels == 16
    schedule = choose_schedule(plain[0]["seg"], ARCH)
    taken = [
        cycles(widened(plain[0]["seg"], [name]), ARCH, schedule)
        for name in ("1.hidden:16", "1.hidden")
    ]
    assert taken[0] < taken[1]
    found, _ = analyse(wide["seg"], ARCH, schedule, samples[16:], graph)
    (point,) = (point for point in found.points if point.point == "1.hidden")
    assert point.bits == 8 and point.clipped < 0.001 and point.wide_cycles
    assert abs(found.points[-1].cumulated_db - found.roundings_db) < 1  # each of them is there
