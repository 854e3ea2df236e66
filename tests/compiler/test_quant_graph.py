"""Whole graphs: accuracy of the integer form, its report, and what bad input gets."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from moesaic.compiler import ir
from moesaic.compiler.float_reference import run_float
from moesaic.compiler.quant import Calibrated, QuantOptions, quantise, quantise_tasks
from moesaic.compiler.quant.build import Builder, prove_attention
from moesaic.compiler.quant.calibrate import calibrate
from moesaic.compiler.quant.measure import Comparison
from moesaic.compiler.quant.scales import Scales
from moesaic.compiler.quant.share import SharedPoints
from moesaic.compiler.rewrite.fold import fold_norms
from moesaic.models.config import M3ViTConfig
from moesaic.models.m3vit import trained_model
from moesaic.models.metrics import depth_rmse, mean_iou, sqnr_db
from moesaic.models.scenes import HELDOUT_SEED, make_batch
from moesaic.spec.errors import UserError
from moesaic.spec.execute import Executor
from moesaic.spec.graphcheck import check_shapes, check_values
from moesaic.spec.hostside import quantise_input
from moesaic.spec.intgraph import IntDense, IntGraph, IntMoe
from moesaic.spec.schema import SchemaError
from tests.compiler.quant_models import SMALL, float_graph, random_graph, random_samples
from tests.outputs import only_output


def changed(**fields: object) -> M3ViTConfig:
    return replace(SMALL, **fields)  # type: ignore[arg-type]


CONFIGS = {
    "small": SMALL,
    "top_1": changed(top_k=1, experts=3),
    "renormalised": changed(gate_mode="softmax_topk_renorm", top_k=4, experts=6),
    "all_moe": changed(moe_layers="all", dim=72, heads=3),
    "no_moe": changed(moe_layers="none", class_token=False, heads=1),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_random_models_keep_25_db(name: str) -> None:
    config = CONFIGS[name]
    graph = random_graph(config, seed=len(name))
    integer, report = quantise(graph, random_samples(config), "seg")
    assert report.sqnr_db >= 25
    assert integer.tokens == config.tokens and integer.macs > 0
    assert all(flips <= 0.15 for flips in report.routing_flips.values())
    fresh = random_samples(config, seed=99)
    got = only_output(integer, Executor(integer).run(quantise_input(integer, fresh)))
    assert sqnr_db(run_float(graph, fresh), got) >= 22


def test_rows_of_the_stream_have_16_bits_and_the_report_says_so() -> None:
    graph = random_graph()
    graph = replace(
        graph, head=replace(graph.heads[0], norm=replace(graph.heads[0].norm, plain=True))
    )
    integer, report = quantise(graph, random_samples(), "seg")
    assert integer.heads[0].wide and integer.heads[0].norm.plain
    assert report.points["head.norm"].bits == 16 and report.sqnr_db > 30


def test_trained_model_keeps_its_accuracy() -> None:
    model = trained_model()
    size = model.config.height, model.config.width
    samples = make_batch(range(6), *size).image
    graphs = {task: float_graph(model, task) for task in ("seg", "depth")}
    integer, reports = quantise_tasks(graphs, {task: samples for task in graphs})
    scenes = make_batch(range(HELDOUT_SEED, HELDOUT_SEED + 12), *size)
    exact, got = {}, {}
    for task, graph in integer.items():
        assert reports[task].sqnr_db >= 28
        exact[task] = run_float(graphs[task], scenes.image)
        codes = Executor(graph).run(quantise_input(graph, scenes.image))
        got[task] = only_output(graph, codes)
        assert sqnr_db(exact[task], got[task]) >= 28
    iou = [mean_iou(x["seg"].argmax(1), scenes.seg) for x in (exact, got)]
    assert abs(iou[0] - iou[1]) <= 0.01
    rmse = [depth_rmse(x["depth"], scenes.depth) for x in (exact, got)]
    assert abs(rmse[1] / rmse[0] - 1) <= 0.02


def test_folding_norms_keeps_the_function() -> None:
    graph, samples = random_graph(seed=3), random_samples(count=2)
    before = run_float(graph, samples)
    folded = fold_norms(graph)
    assert np.abs(run_float(folded, samples) - before).max() <= 1e-5 * np.abs(before).max()
    assert all((layer.norm.gamma == 1).all() for layer in folded.layers)
    assert not all((layer.norm.gamma == 1).all() for layer in graph.layers)


def test_report_is_json_and_complete() -> None:
    _, report = quantise(random_graph(), random_samples(), "seg")
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["samples"] == 4 and values["task"] == "seg"
    assert set(values["routing_flips"]) == {"blocks.1.mlp"}
    points = values["points"]
    assert {"input", "residual", "0.query", "1.hidden", "3.logits", "3.expert4.hidden"} <= set(
        points
    )
    for name, point in points.items():
        bits = point["bits"]
        steps = 2 ** (bits - 1) - 1
        if name.endswith("hidden"):  # unsigned, from GELU's minimum
            steps = 255 / (1 + min(0.17 / point["clip"], 1))
        elif name == "input":  # from its lowest to its highest value
            assert point["maximum"] / 127.5 >= point["scale"] > point["maximum"] / 255
            continue
        assert point["scale"] == pytest.approx(point["clip"] / steps), name
        assert 0 <= point["clipped"] < 0.05
    assert points["residual"]["clip"] >= 1.49 * points["residual"]["maximum"]
    assert points["output"]["clip"] == pytest.approx(1.25 * points["output"]["maximum"], rel=1e-3)


def test_flips_are_seen_when_the_gate_is_wrong() -> None:
    graph, samples = random_graph(), random_samples()
    integer, report = quantise(graph, samples, "seg")
    layers = list(integer.layers)
    moe = layers[3]
    assert isinstance(moe, IntMoe)
    gate = replace(moe.gate, weight=-moe.gate.weight)
    layers[3] = replace(moe, gate=gate)
    wrong = Comparison(graph, replace(integer, layers=tuple(layers)), samples)
    assert wrong.flips["blocks.1.mlp"] > 0.5 > report.routing_flips["blocks.1.mlp"]
    assert wrong.sqnr_db < report.sqnr_db - 10


def test_saturated_residual_is_seen() -> None:
    graph, samples = random_graph(), random_samples(count=2)
    integer, _ = quantise(graph, samples, "seg")
    assert Comparison(graph, integer, samples).saturated == 0
    initial = np.full_like(integer.embed.initial, 32767)
    full = replace(integer, embed=replace(integer.embed, initial=initial))
    assert Comparison(graph, full, samples).saturated > 0


def test_scale_is_widened_until_nothing_saturates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moesaic.compiler.quant.calibrated.RESIDUAL_HEADROOM", 0.5)
    graph, samples = random_graph(), random_samples(count=2)
    integer, report = quantise(graph, samples, "seg")
    assert Comparison(graph, integer, samples).saturated == 0
    residual = report.points["residual"]
    assert residual.maximum < residual.clip < 1.5 * residual.maximum
    monkeypatch.setattr("moesaic.compiler.quant.calibrated.HEADROOM_TRIES", 1)
    with pytest.raises(UserError, match="residual stream must stay in 16 bits"):
        quantise(graph, samples, "seg")


def silenced(graph: ir.Graph, expert: int) -> ir.Graph:
    """The graph whose gate never chooses one expert."""
    layers = list(graph.layers)
    moe = layers[3]
    assert isinstance(moe, ir.Moe)
    bias = moe.gate.bias.copy()
    bias[expert] = -100.0
    layers[3] = replace(moe, gate=replace(moe.gate, bias=bias))
    return replace(graph, layers=layers)


def test_expert_without_tokens_gets_a_range_and_a_note() -> None:
    integer, report = quantise(silenced(random_graph(), 2), random_samples(), "seg")
    assert any("expert 2 of blocks.1.mlp: no sample" in note for note in report.notes)
    assert len(report.notes) == 1 and report.sqnr_db >= 25
    moe = integer.layers[3]
    assert isinstance(moe, IntMoe) and moe.experts[2].up.weight.any()


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "squared_relu"])
def test_expert_without_tokens_has_the_range_of_the_others(activation: str, paired: bool) -> None:
    """Of their hidden rows, their activations and what these are multiplied by, each by itself."""
    graph = silenced(random_graph(), 2)
    moe = graph.layers[3]
    assert isinstance(moe, ir.Moe)

    def larger(mlp: ir.Mlp) -> ir.Mlp:
        up = replace(mlp.up, weight=mlp.up.weight * 40)
        factor = replace(mlp.up, weight=mlp.up.weight * 400) if paired else None
        return replace(mlp, up=up, factor=factor, activation=activation)

    graph.layers[3] = replace(moe, experts=[larger(expert) for expert in moe.experts])
    shared = SharedPoints({"seg": fold_norms(graph)})
    statistics = calibrate({"seg": fold_norms(graph)}, {"seg": random_samples()}, shared)
    scales = Scales(statistics, shared, {}, {"seg": graph})
    points = [f"3.expert{expert}.hidden" for expert in range(5)]
    steps = [scales.table("seg", point).step for point in points]
    clips = [scales.clip("seg", point) for point in points]
    assert steps[2] == max(steps) > 2.0**-12
    assert clips[2] == max(clips[:2] + clips[3:])
    if paired:
        factors = [scales.factor("seg", point, clips[2] / 127)[0] * 32767 for point in points]
        assert factors[2] >= 2 * scales.maximum("seg", "3.expert0.factor")


@pytest.mark.parametrize("wide", [set(), {"1.hidden"}, {"1.hidden:8"}])
def test_report_of_pairs(wide: set[str]) -> None:
    """Factors have 16 bits and room, whatever hidden rows have; activations are nowhere held."""
    graph = random_graph()
    mlp = graph.layers[1]
    assert isinstance(mlp, ir.Mlp)
    factor = replace(mlp.up, weight=mlp.up.weight[::-1] * 3)
    graph.layers[1] = replace(mlp, activation="silu", factor=factor)
    (integers, reports) = Calibrated(
        {"seg": graph}, {"seg": random_samples()}, QuantOptions()
    ).build({"seg": wide})
    point = reports["seg"].points["1.factor"]
    assert point.bits == 16 and point.clipped == 0.0
    assert 2 * point.maximum <= point.clip <= 4 * point.maximum
    assert "1.active" not in reports["seg"].points and reports["seg"].sqnr_db > 25
    layer = integers["seg"].layers[1]
    assert isinstance(layer, IntDense) and layer.mlp.paired
    hidden = reports["seg"].points["1.hidden"].scale
    fine, scale = layer.mlp.activation.fine, layer.mlp.scale.value
    assert point.scale * fine == pytest.approx(hidden * scale)


def test_large_activations_are_noted() -> None:
    graph = random_graph()
    layers = list(graph.layers)
    mlp = layers[1]
    assert isinstance(mlp, ir.Mlp)
    up = replace(mlp.up, bias=mlp.up.bias + np.float32(2e5))
    layers[1] = replace(mlp, up=up)
    _, report = quantise(replace(graph, layers=layers), random_samples(), "seg")
    assert any("saturate at 131072" in note and "blocks.0.mlp" in note for note in report.notes)


def bad_samples() -> dict[str, tuple[np.ndarray, str]]:
    good = random_samples(count=2)
    nan, infinite = good.copy(), good.copy()
    nan[1, 0, 3, 3], infinite[0, 1, 0, 0] = np.nan, np.inf
    return {
        "nan": (nan, "frame 1 holds NaN"),
        "infinity": (infinite, "frame 0 holds NaN or infinity"),
        "shape": (good[:, :2], "shape Nx3x32x48"),
        "scalar": (np.float32(3), "shape Nx3x32x48"),
        "none": (good[:0], "no frames; give at least one"),
        "constant": (np.full_like(good, 0.25), "all are 0.25"),
        "text": (good.astype(str), "must be float32"),
    }


@pytest.mark.parametrize("name", bad_samples())
def test_bad_samples_are_refused(name: str) -> None:
    samples, message = bad_samples()[name]
    with pytest.raises(UserError, match=message) as caught:
        quantise(random_graph(), samples, "seg")
    assert "'image'" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_samples_name_task_and_input() -> None:
    with pytest.raises(UserError, match="task 'seg'.*'image'"):
        quantise_tasks({"seg": random_graph()}, {"depth": random_samples()})


def test_nan_weights_name_the_node() -> None:
    graph = random_graph()
    layers = list(graph.layers)
    attention = layers[2]
    assert isinstance(attention, ir.Attention)
    weight = attention.key.weight.copy()
    weight[3, 3] = np.nan
    layers[2] = replace(attention, key=replace(attention.key, weight=weight))
    with pytest.raises(UserError, match="blocks.1.attention/key"):
        quantise(replace(graph, layers=layers), random_samples(), "seg")


def test_too_large_sums_of_attention_name_it() -> None:
    attention = random_graph().layers[0]
    assert isinstance(attention, ir.Attention)
    prove_attention(attention, 65793)
    with pytest.raises(UserError, match="blocks.0.attention must have at most 65793 tokens"):
        prove_attention(attention, 65794)
    prove_attention(replace(attention, head_dim=511), 9, wide_query=True)
    with pytest.raises(UserError, match="511 dimensions per head"):
        prove_attention(replace(attention, head_dim=512), 9, wide_query=True)
    with pytest.raises(UserError, match="131071 dimensions per head"):
        prove_attention(replace(attention, head_dim=1 << 17), 9)


def built(wide: set[str], graph: ir.Graph | None = None) -> tuple[ir.Graph, np.ndarray, IntGraph]:
    """A model, the small one by default, with the named points in 16 bits."""
    graph, samples = fold_norms(graph or random_graph()), random_samples()
    shared = SharedPoints({"seg": graph})
    scales = Scales(calibrate({"seg": graph}, {"seg": samples}, shared), shared, {}, {"seg": graph})
    options = QuantOptions().without(["correct"])  # biases are those of the float layers
    return graph, samples, Builder("seg", graph, scales, options, {}, wide).build()


def on_grid(linear: ir.Linear) -> ir.Linear:
    """The layer with weights that int8 holds exactly."""
    step = np.abs(linear.weight).max(1, keepdims=True) / 127
    return replace(linear, weight=(np.round(linear.weight / step) * step).astype(np.float32))


def exact_weights() -> ir.Graph:
    """No noise but that of activations: weights on the grid, and no mixture, whose flips would hide
    what is measured."""
    graph = fold_norms(random_graph(CONFIGS["no_moe"], seed=2))
    layers: list[ir.Layer] = []
    for layer in graph.layers:
        names = ("query", "key", "value", "output") if isinstance(layer, ir.Attention) else (
            "up", "down",
        )  # fmt: skip
        layers.append(replace(layer, **{name: on_grid(getattr(layer, name)) for name in names}))  # type: ignore[arg-type]
    embed = replace(graph.embed, linear=on_grid(graph.embed.linear))
    head = replace(graph.heads[0], linear=on_grid(graph.heads[0].linear))
    return replace(graph, embed=embed, heads=[head], layers=layers)


def test_rows_in_16_bits_are_nearer_to_float() -> None:
    """Each kind of row by itself gains, both together most; accumulators stay proven."""
    norms, hidden = {f"{number}.norm" for number in range(4)}, {"1.hidden", "3.hidden"}
    found = {}
    for name, wide in (
        ("none", set()), ("norms", norms), ("hidden", hidden), ("all", norms | hidden),
    ):  # fmt: skip
        graph, samples, integer = built(wide, exact_weights())
        check_shapes(integer)
        check_values(integer)
        found[name] = Comparison(graph, integer, samples).sqnr_db
    assert found["none"] + 0.1 < found["hidden"], found
    assert found["none"] + 0.3 < found["norms"] < found["all"] - 0.2, found
    graph, samples, integer = built(norms | hidden | {"0.query", "2.query"}, exact_weights())
    check_values(integer)
    assert [getattr(layer, "wide_query", None) for layer in integer.layers[:3]] == [
        True,
        None,
        True,
    ]
    queries = Comparison(graph, integer, samples).sqnr_db
    assert queries > found["all"] + 0.05, (queries, found)
    graph, samples, integer = built({"0.attention", "2.attention"}, exact_weights())
    check_values(integer)
    attended = [getattr(layer, "wide_attended", None) for layer in integer.layers[:3]]
    assert attended == [True, None, True]
    attention = Comparison(graph, integer, samples).sqnr_db
    assert attention > found["none"] + 0.05, (attention, found)


def test_points_in_16_bits_are_those_named() -> None:
    _, _, integer = built({"2.norm", "1.hidden", "3.expert2.hidden"})
    assert [layer.wide for layer in integer.layers] == [False, False, True, False]
    dense, moe = integer.layers[1], integer.layers[3]
    assert isinstance(dense, IntDense) and isinstance(moe, IntMoe)
    assert dense.mlp.wide == dense.mlp.up.outputs and dense.mlp.offset == 0
    hidden = moe.experts[2].up.outputs
    assert [expert.wide for expert in moe.experts] == [0, 0, hidden, 0, 0]
    assert all(expert.wide or 0 < expert.offset < 128 for expert in moe.experts)


def with_outliers(channels: list[int]) -> ir.Graph:
    """Hidden channels of layer 1 that reach ten times as far as the others, and count as little as
    they do: what they add is the same."""
    graph = fold_norms(random_graph(CONFIGS["no_moe"], seed=2))
    layer = graph.layers[1]
    assert isinstance(layer, ir.Mlp)
    up, bias, down = (x.copy() for x in (layer.up.weight, layer.up.bias, layer.down.weight))
    up[channels] *= 10
    bias[channels] += 3
    down[:, channels] /= 10
    changed = replace(
        layer,
        up=replace(layer.up, weight=up, bias=bias),
        down=replace(layer.down, weight=down),
    )
    return replace(graph, layers=[graph.layers[0], changed, *graph.layers[2:]])


def test_the_largest_hidden_channels_have_16_bits_and_the_others_a_finer_step() -> None:
    channels = [3, 17, 40]
    graph = with_outliers(channels)
    found, scales, plain = {}, {}, []
    for wide in ("", "1.hidden:3", "1.hidden:9", "1.hidden"):
        _, samples, integer = built({wide} if wide else set(), graph)
        check_shapes(integer)
        check_values(integer)
        layer = integer.layers[1]
        assert isinstance(layer, IntDense)
        mlp = layer.mlp
        hidden = mlp.up.outputs
        assert mlp.wide == {"": 0, "1.hidden": hidden}.get(wide, int(wide.partition(":")[2] or 0))
        assert (mlp.offset == 0) == (mlp.wide == hidden)
        found[wide] = Comparison(graph, integer, samples).sqnr_db
        scales[wide] = mlp.scale.value
        if not mlp.wide:
            plain = [row.tobytes() for row in mlp.up.weight]
        elif mlp.wide < hidden:
            order = [plain.index(row.tobytes()) for row in mlp.up.weight]
            assert set(channels) <= set(order[: mlp.wide]) and sorted(order) == list(range(hidden))
    for some in ("1.hidden:3", "1.hidden:9"):
        assert found[""] + 2 < found[some] and abs(found[some] - found["1.hidden"]) < 0.5, found
    assert scales["1.hidden:3"] > 3 * scales[""]


@pytest.mark.parametrize("bias", [-3.0, -7.0])
def test_a_step_for_small_channels_still_holds_the_large_ones(bias: float) -> None:
    """All but the outliers hardly answer, as channels do that training has switched off."""
    channels = [3, 17, 40]
    graph = with_outliers(channels)
    layer = graph.layers[1]
    assert isinstance(layer, ir.Mlp)
    small = np.setdiff1d(np.arange(len(layer.up.bias)), channels)
    layer.up.weight[small] *= 0.05
    layer.up.bias[small] = bias
    found = {}
    for wide in ("1.hidden:3", "1.hidden:9", "1.hidden"):
        _, samples, integer = built({wide}, graph)
        found[wide] = Comparison(graph, integer, samples).sqnr_db
    assert min(found.values()) > max(found.values()) - 0.5, found


@pytest.mark.parametrize("wide", ["", "1.hidden:3", "1.hidden"])
def test_hidden_rows_next_to_zero_have_a_scale(wide: str) -> None:
    """Smaller than any step of the GELU: what a layer gives that training has switched off."""
    graph = random_graph()
    layer = graph.layers[1]
    assert isinstance(layer, ir.Mlp)
    layer.up.weight[:] *= 1e-9
    layer.up.bias[:] *= 1e-9
    graph, samples, integer = built({wide} if wide else set(), graph)
    assert Comparison(graph, integer, samples).sqnr_db > 25


@pytest.mark.parametrize(
    "name", ["2.key", "residual", "9.norm", "3.hidden", "0.norm:8", "0.query:8", "0.attention:8"]
)
def test_other_points_cannot_be_wide(name: str) -> None:
    with pytest.raises(ValueError, match=f"wide must name .* hidden rows, not '{name}'"):
        built({name})


def test_zero_of_hidden_rows_is_taken_out_exactly() -> None:
    """What ``down`` adds for rows of zeros is its bias alone."""
    graph, _, integer = built(set())
    mlp, exact = integer.layers[1], graph.layers[1]
    assert isinstance(mlp, IntDense) and isinstance(exact, ir.Mlp)
    down = mlp.mlp.down
    zeros = down.bias + mlp.mlp.offset * down.weight.sum(1, dtype=np.int64)
    got = zeros * down.multiplier / 2.0**down.shift * integer.residual_scale / 256
    assert np.abs(got - exact.down.bias).max() < integer.residual_scale


@pytest.mark.parametrize(
    "wide",
    [set(), {"1.norm"}, {"2.norm"}, {"3.norm"}, {"1.hidden"}, {"1.hidden:7"}, {"3.expert0.hidden"}],
)
def test_sums_of_all_forms_are_proven(wide: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """At a limit that is in reach: weights get coarser until every sum is within it."""
    monkeypatch.setattr("moesaic.compiler.quant.linear.ACCUMULATOR_MAX", 1 << 19)
    monkeypatch.setattr("moesaic.spec.graphcheck.ACCUMULATOR_MAX", 1 << 19)
    _, _, integer = built(wide)
    check_values(integer)
    monkeypatch.setattr("moesaic.spec.graphcheck.ACCUMULATOR_MAX", 1 << 18)
    with pytest.raises(SchemaError, match="accumulators"):
        check_values(integer)
