"""Weights of four bits: which layers have them, by name or by what they cost."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from moesaic.compiler.accuracy.few_bits import choose_few
from moesaic.compiler.quant import Calibrated, QuantOptions
from moesaic.compiler.quant.weight_bits import WeightBits, weight_groups
from moesaic.compiler.report.weights import stored_weights
from moesaic.spec.errors import UserError
from moesaic.spec.graphcheck import check_shapes, check_values, linears
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.presets import PRESETS
from tests.compiler.quant_models import dense_graph, random_graph, random_samples


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    graphs = {"seg": random_graph(task="seg"), "depth": dense_graph(task="depth")}
    return Calibrated(graphs, dict.fromkeys(graphs, random_samples(count=8)), QuantOptions())


def few(graph: IntGraph) -> set[str]:
    return {where for where, linear, *_ in linears(graph) if linear.few_bits}


def build(calibrated: Calibrated, bits: WeightBits) -> dict[str, IntGraph]:
    calibrated.few = {task: bits.roles(graph) for task, graph in calibrated.graphs.items()}
    return calibrated.build()[0]


def test_experts_or_all_but_gates_have_four_bits(calibrated: Calibrated) -> None:
    plain = build(calibrated, WeightBits())
    of_experts = build(calibrated, WeightBits.of(experts=4))
    of_all = build(calibrated, WeightBits.of(weights=4))
    others = build(calibrated, WeightBits.of(experts=8, weights=4))
    for task in plain:
        check_shapes(of_all[task])
        check_values(of_all[task])
        names = {where for where, *_ in linears(plain[task])}
        experts = {name for name in names if "expert" in name}
        gates = {name for name in names if name.endswith("gate")}
        assert few(plain[task]) == set() and few(of_experts[task]) == experts
        assert few(of_all[task]) == names - gates
        assert few(others[task]) == names - gates - experts
        assert bool(experts) == bool(gates) == (task == "seg")
    assert build(calibrated, WeightBits())["seg"].layers[0] == plain["seg"].layers[0]


def test_report_has_bits_and_bytes_of_every_layer(calibrated: Calibrated) -> None:
    graph = build(calibrated, WeightBits.of(experts=4))["seg"]
    told = stored_weights(graph)
    assert json.loads(json.dumps(told)) == told
    bits = [part["bits"] for part in told.values()]
    assert [4, 8] in bits and [8] in bits  # experts and their gate
    count = {where: linear.weight.size for where, linear, *_ in linears(graph)}
    halves = sum(size for where, size in count.items() if "expert" in where)
    assert sum(part["bytes"] for part in told.values()) == sum(count.values()) - halves // 2


def test_as_many_layers_as_keep_the_decibels(calibrated: Calibrated) -> None:
    calibrated.few = {}
    built = calibrated.build()
    now = min(report.sqnr_db for report in built[1].values())
    everything = set(weight_groups(calibrated.graphs["seg"]))
    everything |= set(weight_groups(calibrated.graphs["depth"]))
    sizes = []
    for least in (now - 0.01, now - 6, now - 10, 0.0):
        (graphs, reports), names = choose_few(calibrated, built, least)
        assert all(report.sqnr_db >= least for report in reports.values())
        sizes.append(len(names))
        assert bool(names) == any(few(graph) for graph in graphs.values())
    assert sizes[0] < sizes[1] < sizes[2] <= sizes[3] == len(everything), sizes
    calibrated.few = {}
    with pytest.raises(UserError, match=r"reaches .* dB with weights of 8 bits, less than"):
        choose_few(calibrated, built, now + 1)


@pytest.mark.parametrize(
    ("given", "needle"),
    [
        ({"experts": 5}, "--experts takes 4 or 8, not 5"),
        ({"weights": 16}, "--weights takes 4, 8 or auto, not 16"),
        ({"weights": "few"}, "--weights takes 4, 8 or auto, not 'few'"),
        ({"weights": "auto"}, "--weights auto needs --min-sqnr"),
        ({"weights": "auto", "experts": 4, "least_db": 30.0}, "leave out --experts"),
        ({"weights": 4, "least_db": 30.0}, "--min-sqnr is for --weights auto"),
        ({"weights": "auto", "least_db": -1.0}, "--min-sqnr takes decibels from 0 on, not -1"),
        ({"weights": "auto", "least_db": float("nan")}, "--min-sqnr takes decibels"),
    ],
)
def test_options_that_make_no_sense_are_refused(given: dict[str, Any], needle: str) -> None:
    with pytest.raises(UserError, match=needle):
        WeightBits.of(**given)


def test_targets_without_four_bits_are_refused_where_they_are_wanted() -> None:
    able = replace(PRESETS["nano"], four_bit_weights=True)
    for experts, weights in product((None, 4, 8), (4, 8)):
        bits = WeightBits.of(experts, weights)
        bits.check(able)
        if bits.any_few:
            with pytest.raises(UserError, match="target nano takes weights of 8 bits only"):
                bits.check(PRESETS["nano"])
        else:
            bits.check(PRESETS["nano"])


def test_four_bits_of_experts_that_are_none_are_spoken_of() -> None:
    mixture, dense = random_graph(), dense_graph()
    assert WeightBits.of(4).notes(mixture) == [] == WeightBits.of(4, 4).notes(dense)
    assert "there are no experts: --weights 4" in WeightBits.of(4).notes(dense)[0]
