"""Integers in reals: every rounding alone, all together, and none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import numpy as np
import pytest
import torch

from moesaic.compiler import ir
from moesaic.compiler.accuracy.advice import advise
from moesaic.compiler.accuracy.analysis import analyse
from moesaic.compiler.accuracy.noise import NoiseMeter, noise_alone, worst_alone
from moesaic.compiler.accuracy.reals import Codes, Numerators, in_reals
from moesaic.compiler.estimate.tuning import choose_schedule
from moesaic.compiler.float_reference import run_float, run_layers
from moesaic.compiler.points import sites
from moesaic.compiler.quant import Calibrated, QuantOptions
from moesaic.compiler.replay import Replay
from moesaic.spec.execute import Executor
from moesaic.spec.hostside import quantise_input
from moesaic.spec.intgraph import IntGraph, IntMoe
from moesaic.spec.metrics import sqnr_db
from moesaic.spec.presets import PRESETS
from tests.compiler.quant_models import dense_graph, random_graph, random_samples
from tests.outputs import only_output

SOME = {"1.hidden:9", "3.expert0.hidden:5", "3.expert2.hidden"}
WIDE = {"0.query", "0.attention", "1.hidden", "2.norm", "3.norm", "3.expert2.hidden", "head.norm"}


def built(
    wide: Collection[str] = (), graph: ir.Graph | None = None
) -> tuple[ir.Graph, IntGraph, np.ndarray]:
    """Float graph, its integers, and samples that calibration has not seen."""
    graph, samples = graph or random_graph(), random_samples(count=12)
    calibrated = Calibrated(
        {"seg": graph}, {"seg": samples[:8]}, QuantOptions(), {"seg": samples[8:]}
    )
    return graph, calibrated.build({"seg": wide})[0]["seg"], samples[8:]


@pytest.mark.parametrize("wide", [(), WIDE, SOME])
def test_with_all_roundings_each_layer_gives_what_the_integers_give(
    wide: Collection[str],
) -> None:
    _, integer, samples = built(wide)
    reals, roundings = in_reals(integer)
    seen: dict[str, list[torch.Tensor]] = defaultdict(list)
    Executor(integer).run(
        quantise_input(integer, samples), lambda name, value: seen[name].append(value)
    )
    states = [torch.stack(seen["embed"])]
    states += [torch.stack(seen[f"{n}.residual"]) for n in range(len(reals.layers))]

    def apart(number: int, rounded: bool) -> torch.Tensor:
        """Residual codes [frames, tokens, channels] away from the integers' behind a layer."""

        def observe(point: str, value: torch.Tensor) -> torch.Tensor:
            wanted = rounded and point in roundings and point != "residual"
            return roundings[point](value) if wanted else value

        before = states[number].double() * integer.residual_scale
        after = run_layers(reals.layers[number : number + 1], before, number, observe)
        return (after / integer.residual_scale - states[number + 1]).abs()

    for number in range(len(reals.layers)):
        # The median: where two logits are next to equal, a token may choose another expert.
        close, far = (float(apart(number, rounded).median()) for rounded in (True, False))
        assert close < 0.6 * far, number


@pytest.mark.parametrize(
    "wide", [(), WIDE - {"3.expert2.hidden"} | {"3.hidden"}, {"1.hidden:9", "3.hidden:20"}]
)
def test_noise_of_all_points_is_that_of_the_integers(wide: Collection[str]) -> None:
    graph, integer, samples = built(wide, dense_graph())
    exact = run_float(in_reals(integer)[0], samples)
    weights = sqnr_db(run_float(graph, samples).astype(np.float32), exact.astype(np.float32))
    assert weights > 30
    codes = Executor(integer).run(quantise_input(integer, samples))
    whole = only_output(integer, codes).reshape(exact.shape)
    noise = sqnr_db(exact.astype(np.float32), whole)
    alone = 10 * np.log10(1 / sum(cost.noise for cost in noise_alone(integer, samples)))
    assert abs(noise - alone) < 2


@pytest.mark.parametrize("graph", [dense_graph(), random_graph()], ids=["dense", "experts"])
@pytest.mark.parametrize("bad", ["1.hidden", "2.value", "input", "head.norm", None])
def test_the_worst_point_is_found_in_a_few_runs(
    graph: ir.Graph, bad: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = random_samples(count=4)
    calibrated = Calibrated({"seg": graph}, {"seg": samples}, QuantOptions())
    if bad is not None:
        key = calibrated.shared.find("seg", bad)
        calibrated.clips[key] = calibrated.statistics.ranges[key].maximum / 4
    integer = calibrated.build()[0]["seg"]
    all_points = noise_alone(integer, samples)
    runs: list[object] = []
    of = NoiseMeter.of
    monkeypatch.setattr(NoiseMeter, "of", lambda *given: runs.append(given) or of(*given))
    assert worst_alone(integer, samples) == all_points[0]
    assert len(runs) < len(all_points)


def test_every_point_that_is_rounded_is_there_with_its_bits() -> None:
    graph, integer, _ = built(WIDE)
    _, roundings = in_reals(integer)
    points = {point for site in sites(graph) for point in (site.source, site.target)}
    numerators = {f"{number}.probability" for number in (0, 2)}
    logits = {point for point in points if point.endswith("logits")}
    assert set(roundings) == points - logits | numerators
    for point, rounding in roundings.items():
        if isinstance(rounding, Codes):
            wide = point in WIDE or point in ("residual", "output")
            assert rounding.highest - rounding.lowest == (65535 if wide else 255), point
        else:
            assert point in numerators


def test_rounding_one_point_changes_what_is_behind_it_alone() -> None:
    _, integer, samples = built()
    reals, roundings = in_reals(integer)
    replay = Replay(reals, samples)
    same = replay.run({"2.norm": lambda value: value})[0]
    assert torch.equal(same, replay.output)
    for point in ("input", "0.key", "1.hidden", "3.expert0.hidden", "head.norm", "output"):
        changed = replay.run({point: roundings[point]})[0]
        assert not torch.equal(changed, replay.output), point
        assert sqnr_db(replay.output.numpy(), changed.numpy()) > 25, point


def test_numerators_are_those_of_the_softmax() -> None:
    scores = torch.randn(3, 50, dtype=torch.float64)
    exact = scores.softmax(-1)
    rounded = Numerators()(exact)
    assert torch.allclose(rounded.sum(-1), torch.ones(3, dtype=torch.float64))
    largest = exact.amax(-1, keepdim=True)
    codes = rounded / rounded.amax(-1, keepdim=True) * 255
    assert torch.allclose(codes, codes.round(), atol=1e-9)
    assert ((codes - exact / largest * 255).abs() < 1).all()


def test_codes_saturate_and_say_how_many() -> None:
    codes = Codes(0.5, -2, 3)
    values = torch.tensor([-9.0, -1.0, 0.2, 0.25, 1.5, 1.8])
    assert codes(values).tolist() == [-1.0, -1.0, 0.0, 0.5, 1.5, 1.5]
    assert codes.clipped(values) == pytest.approx(2 / 6)


def test_the_typical_noise_is_not_that_of_one_odd_frame() -> None:
    _, integer, samples = built()
    meter = NoiseMeter(integer, samples)
    rounding = meter.roundings["1.hidden"]

    def and_one_frame_is_far_off(value: torch.Tensor) -> torch.Tensor:
        rounded = rounding(value)
        rounded.unflatten(0, (len(samples), -1))[0] += 1.0
        return rounded

    both = [{"1.hidden": change} for change in (rounding, and_one_frame_is_far_off)]
    together, odd = (meter.of(change) for change in both)
    assert odd > 10 * together
    typical, still = (meter.typical(change) for change in both)
    assert 0.5 * together < typical < 2 * together and typical <= still < 2 * typical


def test_analysis_finds_a_point_that_was_made_bad() -> None:
    graph, integer, samples = built()
    schedule = choose_schedule(integer, PRESETS["nano"])
    good, codes = analyse(integer, PRESETS["nano"], schedule, samples, graph)
    assert np.array_equal(codes, Executor(integer).run(quantise_input(integer, samples)))
    assert good.weights_db is not None and good.total_db < min(good.weights_db, good.roundings_db)
    assert good.points == sorted(good.points, key=lambda point: point.alone_db)
    assert good.points[-1].cumulated_db == min(point.cumulated_db for point in good.points)
    exact = run_float(graph, samples).astype(np.float32)
    values = only_output(integer, codes).reshape(exact.shape)
    for number, db in enumerate(good.frames_db):
        assert db == pytest.approx(sqnr_db(exact[number], values[number]), abs=0.01)
    assert len(good.frames_db) == len(samples)
    gated = {layer.name for layer in integer.layers if isinstance(layer, IntMoe)}
    assert {flips.layer for flips in good.flips} == gated != set()
    assert all(0 <= flips.margin <= flips.margin_of_all for flips in good.flips)
    by_name = {point.point: point for point in good.points}
    assert by_name["3.hidden"].wide_cycles and by_name["2.norm"].wide_cycles
    assert by_name["0.key"].wide_cycles is None and by_name["residual"].bits == 16

    poor = Calibrated({"seg": graph}, {"seg": random_samples(count=4)}, QuantOptions())
    key = poor.shared.find("seg", "2.query")
    poor.clips[key] = poor.statistics.ranges[key].maximum / 20
    worse, _ = analyse(poor.build()[0]["seg"], PRESETS["nano"], schedule, samples, graph)
    assert worse.points[0].point == "2.query" and worse.points[0].clipped > 0.1
    assert worse.total_db < good.total_db - 3


def test_advice_names_the_cause_and_the_way_out() -> None:
    graph, samples = random_graph(), random_samples(count=8)
    calibrated = Calibrated({"seg": graph}, {"seg": samples}, QuantOptions())
    graphs, reports = calibrated.build()
    assert advise(graphs["seg"], reports["seg"], samples, 30.0) is None
    for point, way in (("1.hidden", "--target-sqnr 20 gives it 16 bits"), ("2.value", "calibrate")):
        poor = Calibrated({"seg": graph}, {"seg": samples}, QuantOptions())
        key = poor.shared.find("seg", point)
        poor.clips[key] = poor.statistics.ranges[key].maximum / 100
        graphs, reports = poor.build()
        warning = advise(graphs["seg"], reports["seg"], samples, reports["seg"].sqnr_db)
        assert warning is not None and f"the worst point is {point}" in warning and way in warning
