"""Layers that are parallel: one set of normalised rows, from the floats to the program."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
import torch

from moesaic.compiler import ir
from moesaic.compiler.accuracy.reals import in_reals
from moesaic.compiler.accuracy.sizes import alike, cycles, widened
from moesaic.compiler.accuracy.widths import Goal, choose_widths
from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.models import estimate_graphs
from moesaic.compiler.estimate.shapes import ShapeImage, shape_graph
from moesaic.compiler.float_reference import run_float, run_layers
from moesaic.compiler.page.layers import layer_facts
from moesaic.compiler.points import sites
from moesaic.compiler.quant import Calibrated, QuantOptions
from moesaic.compiler.replay import Replay
from moesaic.compiler.rewrite import fold_norms, rotate_residual
from moesaic.compiler.schedule.lower import lower
from moesaic.compiler.schedule.options import first_schedule
from moesaic.spec import isa
from moesaic.spec.errors import UserError
from moesaic.spec.execute import Executor
from moesaic.spec.graphcheck import check_shapes, check_values
from moesaic.spec.hostside import quantise_input
from moesaic.spec.intgraph import IntDense, IntGraph, IntMlp
from moesaic.spec.presets import PRESETS
from moesaic.spec.schema import SchemaError
from tests.compiler.quant_models import dense_graph, random_graph, random_samples
from tests.compiler.random_intgraph import Shape, random_intgraph, random_patches
from tests.compiler.test_codegen import SMALL, run_both
from tests.outputs import at_the_end
from tests.spec import plain_executor

NANO = PRESETS["nano"]


def in_parallel(graph: ir.Graph, numbers: Collection[int] = (1, 3)) -> ir.Graph:
    """The graph with some layers reading the rows of the one in front; gammas and betas differ."""
    layers = [replace(x, parallel=n in numbers) for n, x in enumerate(graph.layers)]
    return replace(graph, layers=layers, streams=[])


def calibrated(graph: ir.Graph) -> Calibrated:
    samples = random_samples(count=12)
    return Calibrated({"seg": graph}, {"seg": samples[:8]}, QuantOptions(), {"seg": samples[8:]})


# -- floats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [(1,), (1, 3), (1, 2, 3)])
def test_branches_read_what_is_in_front_of_the_first(numbers: tuple[int, ...]) -> None:
    """Each by itself, added up."""
    graph = in_parallel(random_graph(), numbers)
    rng = np.random.default_rng(0)
    stream = torch.from_numpy(rng.standard_normal((2, graph.tokens, graph.channels)))
    quiet = lambda point, value: None  # noqa: E731
    result = run_layers(graph.layers, stream, 0, quiet)
    number = 0
    while number < len(graph.layers):
        behind = number + 1
        while behind in numbers:
            behind += 1
        alone = [replace(layer, parallel=False) for layer in graph.layers[number:behind]]
        updates = [run_layers([one], stream, 0, quiet) - stream for one in alone]
        stream, number = stream + sum(updates), behind
    torch.testing.assert_close(result, stream, rtol=1e-12, atol=1e-12)


def test_rewrites_change_nothing() -> None:
    graph, samples = in_parallel(random_graph()), random_samples(count=3)
    before = run_float(graph, samples)
    rotated = rotate_residual(fold_norms(graph))
    assert np.abs(run_float(rotated, samples) - before).max() < 1e-5 * np.abs(before).max()
    other = run_float(in_parallel(graph, ()), samples)
    assert np.abs(other - before).max() > 1e-2 * np.abs(before).max()


@pytest.mark.parametrize("point", ["0.norm", "0.key", "1.hidden", "2.norm", "3.hidden"])
def test_replay_from_within_parallel_layers(point: str) -> None:
    graph, samples = in_parallel(dense_graph()), random_samples(count=2)

    def doubled(name: str, value: torch.Tensor) -> torch.Tensor | None:
        return 2 * value if name == point else None

    replay = Replay(graph, samples)
    seen: dict[str, torch.Tensor] = {}

    def watch(name: str, value: torch.Tensor) -> torch.Tensor | None:
        seen[name] = value
        return doubled(name, value)

    run_float(graph, samples, watch, torch.float32)
    got = replay.run({point: lambda value: 2 * value})[0]
    torch.testing.assert_close(got, seen["output"].flatten(1), rtol=1e-4, atol=1e-4)
    assert (got - replay.output).abs().max() > 1e-2


# -- integers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [(1, 3), (1, 2, 3)])
@pytest.mark.parametrize("wide", [(), ("0.norm",), ("0.norm", "1.hidden", "0.query")])
def test_integers_are_close_to_floats(numbers: tuple[int, ...], wide: tuple[str, ...]) -> None:
    graph = in_parallel(random_graph(), numbers)
    integers, reports = calibrated(graph).build({"seg": wide})
    integer, report = integers["seg"], reports["seg"]
    check_shapes(integer)
    check_values(integer)
    assert [layer.parallel for layer in integer.layers] == [n in numbers for n in range(4)]
    assert integer.layers[0].wide == integer.layers[1].wide == bool(wide)
    assert report.sqnr_db > 30
    assert {f"{n}.norm" for n in range(4) if n not in numbers} == {
        point for point in report.points if point.endswith(".norm") and point != "head.norm"
    }


def test_point_of_a_parallel_layer_is_that_of_the_first() -> None:
    with pytest.raises(ValueError, match="1.norm"):
        calibrated(in_parallel(random_graph())).build({"seg": {"1.norm"}})
    sources = {site.role: site.source for site in sites(in_parallel(random_graph(), (1, 2, 3)))}
    assert {sources[role] for role in ("0.query", "1.up", "2.value", "3.gate")} == {"0.norm"}


@pytest.mark.parametrize("wide", [(), ("0.norm", "0.attention"), ("2.norm", "1.hidden")])
def test_with_all_roundings_branches_give_what_the_integers_give(wide: tuple[str, ...]) -> None:
    integer = calibrated(in_parallel(random_graph())).build({"seg": wide})[0]["seg"]
    reals, roundings = in_reals(integer)
    assert [layer.parallel for layer in reals.layers] == [False, True, False, True]
    samples = random_samples(count=4, seed=5)
    seen: dict[str, list[torch.Tensor]] = defaultdict(list)
    Executor(integer).run(
        quantise_input(integer, samples), lambda name, value: seen[name].append(value)
    )
    assert {name for name in seen if name.endswith("norm")} == {"0.norm", "2.norm", "head.norm"}

    def apart(first: int, before: str, rounded: bool) -> float:
        def observe(point: str, value: torch.Tensor) -> torch.Tensor:
            wanted = rounded and point in roundings and point != "residual"
            return roundings[point](value) if wanted else value

        state = torch.stack(seen[before]).double() * integer.residual_scale
        after = run_layers(reals.layers[first : first + 2], state, first, observe)
        codes = torch.stack(seen[f"{first + 1}.residual"])
        return float((after / integer.residual_scale - codes).abs().median())

    for first, before in ((0, "embed"), (2, "1.residual")):
        assert apart(first, before, True) < 0.6 * apart(first, before, False), first


def test_tasks_store_parallel_layers_once() -> None:
    graphs = {task: in_parallel(dense_graph(task=task)) for task in ("seg", "depth")}
    samples = dict.fromkeys(graphs, random_samples(count=6))
    built = Calibrated(graphs, samples, QuantOptions()).build()[0]
    for one, other in zip(built["seg"].layers, built["depth"].layers, strict=True):
        parts = ("query", "output") if hasattr(one, "query") else ("mlp.up", "mlp.down")
        for part in parts:
            first, second = one, other
            for name in part.split("."):
                first, second = getattr(first, name), getattr(second, name)
            assert first is second


def test_16_bits_of_shared_rows_cost_all_that_read_them() -> None:
    one = Calibrated(
        {"seg": in_parallel(dense_graph())}, {"seg": random_samples(count=8)}, QuantOptions()
    )
    graphs, reports = one.build()
    graph = graphs["seg"]
    wide = widened(graph, ["0.norm"])
    assert [layer.wide for layer in wide.layers] == [True, True, False, False]
    check_shapes(wide)
    more = cycles(wide, NANO, first_schedule(NANO)) - cycles(graph, NANO, first_schedule(NANO))
    assert more > 0
    assert alike(graph, "0.query") == alike(graph, "2.query")
    assert alike(graph, "0.norm") != alike(graph, "2.norm")  # MLPs of other sizes read them
    apart = replace(graph, layers=tuple(replace(x, parallel=False) for x in graph.layers))
    assert alike(apart, "0.norm") != alike(graph, "0.norm")
    target = reports["seg"].sqnr_db + 1
    (_, better), chosen = choose_widths(one, (graphs, reports), NANO, Goal(target))
    assert chosen and better["seg"].sqnr_db >= target
    assert not {"1.norm", "3.norm"} & set(chosen)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"parallel": True}, r"layers\[0\].parallel must be False"),
        ({"wide": True}, r"layers\[1\].norm and wide must be those of the layer"),
        ({"norm": 3}, r"layers\[1\].norm and wide must be those of the layer"),
    ],
)
def test_graph_that_no_device_can_run_is_refused(change: dict[str, object], why: str) -> None:
    graph = random_intgraph(Shape(parallel=(1,), wide=0.0))
    check_shapes(graph)
    first, *others = graph.layers
    if "norm" in change:
        change = {"norm": replace(first.norm, epsilon=first.norm.epsilon + 1)}
    wrong = replace(graph, layers=(replace(first, **change), *others))
    with pytest.raises(SchemaError, match=why):
        check_shapes(wrong)


def test_stream_saturates_between_branches() -> None:
    """Two MLPs of full scale and opposite signs: what comes first decides what is left."""
    shape = Shape(
        tokens=4, patches=3, head_rows=3, moe=(False, False), parallel=(1, 2, 3), wide=0.0
    )
    graph = random_intgraph(shape, seed=5)
    initial = np.full_like(graph.embed.initial, 30000)
    initial[:, ::2] = 1000
    layers = [x for x in graph.layers if isinstance(x, IntDense)]

    def pushed(sign: int, layer: IntDense, parallel: bool) -> IntDense:
        down = layer.mlp.down
        bias = np.full_like(down.bias, sign * 2**30)
        scales = np.full_like(down.multiplier, 1 << 15), np.full_like(down.shift, 24)
        weight = np.zeros_like(down.weight)
        down = replace(down, weight=weight, bias=bias, multiplier=scales[0], shift=scales[1])
        mlp: IntMlp = replace(layer.mlp, down=down)
        return replace(layer, mlp=mlp, norm=layers[0].norm, parallel=parallel)

    results = []
    heads = at_the_end(graph.heads, 2)
    for signs in ((1, -1), (-1, 1)):
        pair = tuple(
            pushed(sign, layer, bool(n))
            for n, (sign, layer) in enumerate(zip(signs, layers, strict=True))
        )
        one = replace(graph, embed=replace(graph.embed, initial=initial), layers=pair, heads=heads)
        x = random_patches(one, 1, seed=2)
        results.append(Executor(one).run(x)[0])
        assert (results[-1] == plain_executor.run(one, x[0])).all()
        image = WeightImage(SMALL)
        got, expected = run_both(one, SMALL, compile_task(one, SMALL, image), image.tobytes(), 1)
        assert (got == expected).all()
    assert (results[0] != results[1]).any()


# -- programs ----------------------------------------------------------------------------------


def norms(graph: IntGraph) -> list[int]:
    """``wide`` of every NORM in front of the head's."""
    steps = lower(graph, NANO, first_schedule(NANO))
    found = [step.fields["wide"] for step in steps if step.opcode is isa.Opcode.NORM]
    return [int(wide) for wide in found[:-1]]  # type: ignore[arg-type]


def test_one_norm_for_all_branches() -> None:
    """With the planes that any of them needs: a gate reads 16 bits whatever the experts read."""
    shape = Shape(wide=0.0, moe=(False, True))
    assert norms(random_intgraph(shape)) == [0, 0, 0, 1]
    assert norms(random_intgraph(replace(shape, parallel=(1, 3)))) == [0, 1]
    assert norms(random_intgraph(replace(shape, parallel=(1, 2, 3)))) == [1]
    assert norms(random_intgraph(replace(shape, parallel=(1, 2), wide=1.0))) == [1, 1]


def test_page_says_which_rows_a_layer_reads() -> None:
    graph = random_intgraph(Shape(parallel=(1, 2)), values=False)
    made = estimate_graphs({"t": graph}, NANO, image=ShapeImage(NANO))["t"]
    shapes = [layer.shape for layer in layer_facts(graph, made, NANO)]
    there = ["on the rows of the layer in front" in shape for shape in shapes]
    assert there == [False, False, True, True, False, False]


def test_a_norm_less_is_less_to_wait_for() -> None:
    sizes = dict(channels=96, tokens=40, patches=39, head_rows=39)
    shape = Shape(moe=(False, False), wide=0.0, functions=0.0, pairs=0.0, **sizes)
    apart, beside = (
        estimate_graphs({"t": random_intgraph(one, values=False)}, NANO, image=ShapeImage(NANO))
        for one in (shape, replace(shape, parallel=(1, 3)))
    )
    assert beside["t"].cycles < apart["t"].cycles


def test_sizes_alone_give_the_same_estimate() -> None:
    graph = in_parallel(random_graph())
    integer = calibrated(graph).build()[0]["seg"]
    shapes = shape_graph(graph)
    assert [layer.parallel for layer in shapes.layers] == [layer.parallel for layer in graph.layers]
    schedules = {"t": first_schedule(NANO)}
    found = [
        estimate_graphs({"t": one}, NANO, image=ShapeImage(NANO), schedules=schedules)["t"].cycles
        for one in (replace(integer, task="t"), replace(shapes, task="t"))
    ]
    assert found[0] == found[1]


def test_rows_that_must_stay_may_be_too_many() -> None:
    """They stay beside the other branches' activations; the refusal names both."""
    shape = Shape(channels=248, heads=8, hidden=20, moe=(False,), wide=0.0)
    arch = replace(SMALL, activation_bytes=4 << 10, activation_banks=1)
    compile_task(random_intgraph(shape, values=False), arch, ShapeImage(arch))
    with pytest.raises(UserError, match=r"activations attention0.probability6.0 need"):
        graph = random_intgraph(replace(shape, parallel=(1,)), values=False)
        compile_task(graph, arch, ShapeImage(arch))
