"""Whole programs on the RTL in the corners: one token, full and empty queues, odd sizes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.models import estimate_graphs
from moesaic.compiler.schedule.options import first_schedule
from moesaic.sim.dram import DramConfig
from moesaic.sim.provider import SimulatedAccelerator
from moesaic.spec import layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.intgraph import IntGraph, IntMoe
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph, random_patches
from tests.compiler.test_codegen import SHAPES, SMALL

from .bundles import expected_codes, make_bundle

NANO = PRESETS["nano"]
IDEAL = Memory(latency=1, share=1.0, gap=0.0)


def run(graph: IntGraph, arch: ArchConfig, frames: int, dram: DramConfig | None = None) -> dict:  # type: ignore[type-arg]
    """Run frames on the RTL, compare them with the reference, return the last counters."""
    patches = random_patches(graph, frames, seed=frames)
    device = SimulatedAccelerator(make_bundle({"task": graph}, arch), dram=dram)
    try:
        result = device.run("task", patches)
    finally:
        device.close()
    np.testing.assert_array_equal(result.codes, expected_codes(graph, patches))
    return result.counters[-1]


def steer(graph: IntGraph, favourites: list[int]) -> IntGraph:
    """The same graph with gates that always choose ``favourites``, in this order."""

    def steered(layer: IntMoe) -> IntMoe:
        bias = np.full(len(layer.experts), -(1 << 24), np.int32)
        for rank, expert in enumerate(favourites):
            bias[expert] = (1 << 24) - rank * (1 << 20)
        gate = dataclasses.replace(layer.gate, bias=bias)
        return dataclasses.replace(layer, gate=gate, corrections=None)

    layers = tuple(steered(x) if isinstance(x, IntMoe) else x for x in graph.layers)
    return dataclasses.replace(graph, layers=layers)


@pytest.mark.parametrize("arch", [NANO, SMALL], ids=lambda a: a.name)
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_is_bit_exact(arch: ArchConfig, shape: str) -> None:
    run(random_intgraph(SHAPES[shape], seed=7 + len(shape)), arch, frames=2)


@pytest.mark.parametrize("arch", [NANO, SMALL], ids=lambda a: a.name)
def test_corrections_decide(arch: ArchConfig) -> None:
    """Routings with corrections, which are a row of logits, and without follow one another."""
    shape = Shape(tokens=17, patches=16, head_rows=16, moe=(True,) * 4, experts=5, top_k=2)
    graph = random_intgraph(shape, seed=11)
    codes = np.array([-90_000, 40_000, 3, 0, 25_000], np.int32)
    mixtures = iter((codes, None, -codes, codes // 8))
    layers = tuple(
        dataclasses.replace(layer, sigmoid=True, corrections=next(mixtures))
        if isinstance(layer, IntMoe)
        else layer
        for layer in graph.layers
    )
    run(dataclasses.replace(graph, layers=layers), arch, frames=2)


@pytest.mark.parametrize("favourites", [[0], [4], [2, 0], [3, 4]])
def test_unhit_experts_are_skipped_or_dropped(favourites: list[int]) -> None:
    """All tokens to one or two experts; the others have none."""
    shape = Shape(
        tokens=40, patches=39, head_rows=39, moe=(True, True), top_k=len(favourites), pairs=0.0
    )  # pairs may have more products
    graph = steer(random_intgraph(shape, seed=3), favourites)
    counters = run(graph, NANO, frames=2)
    each = [  # a first product, or two if some hidden channels have 16 bits, and a second one
        [2 + (0 < expert.wide < expert.hidden) for expert in layer.experts]
        for layer in graph.layers
        if isinstance(layer, IntMoe)
    ]
    segments = sum(sum(counts) for counts in each)
    hit = sum(counts[number] for counts in each for number in favourites)
    assert counters["EXPERTS_FETCHED"] + counters["EXPERTS_SKIPPED"] == segments
    assert counters["EXPERTS_SKIPPED"] + hit <= segments
    wasted = counters["EXPERTS_FETCHED"] - hit
    assert (counters["WEIGHT_UNUSED_BYTES"] > 0) == (wasted > 0)


def test_routing_known_in_time_saves_bandwidth() -> None:
    """Experts larger than the ring cannot all be fetched on speculation."""
    shape = Shape(
        tokens=40, patches=39, head_rows=39, channels=96, heads=2, head_dim=48, value_dim=48,
        experts=12, expert_hidden=200, moe=(True,), top_k=1,
    )  # fmt: skip
    spread = run(random_intgraph(shape, seed=5), NANO, frames=1)
    single = run(steer(random_intgraph(shape, seed=5), [11]), NANO, frames=1)
    assert single["EXPERTS_SKIPPED"] >= 16
    assert single["WEIGHT_READ_BYTES"] < 0.6 * spread["WEIGHT_READ_BYTES"]


@pytest.mark.parametrize(
    "dram",
    [
        DramConfig.ideal(),
        DramConfig(latency_cycles=240),
        DramConfig(bandwidth_share=0.3, gap_probability=0.1, seed=9),
    ],
    ids=["ideal", "slow", "thin"],
)
@pytest.mark.parametrize(
    "shape", ["all_moe_top4", "parallel", "four_on_one_norm", "begins_anew_now_and_then", "lists"]
)
def test_memory_timing_changes_no_bit(shape: str, dram: DramConfig) -> None:
    run(random_intgraph(SHAPES[shape], seed=2), NANO, frames=2, dram=dram)


@pytest.mark.parametrize("ports", [2, 4])
@pytest.mark.parametrize(
    "dram", [DramConfig.ideal(), DramConfig(gap_probability=0.2, seed=3)], ids=["ideal", "gaps"]
)
def test_outputs_over_several_ports(ports: int, dram: DramConfig) -> None:
    """Ports with pauses of their own write their parts of the chunks; all are read back."""
    arch = dataclasses.replace(
        NANO, weight_ports=4, weight_port_bytes=8, data_port_bytes=8, output_ports=ports
    )
    graph = random_intgraph(SHAPES["wide_heads"], seed=4)
    counters = run(graph, arch, frames=2, dram=dram)
    shapes = [(head.rows, head.linear.outputs) for head in graph.heads]
    chunks = layout.output_offsets(arch, shapes)[-1]
    assert counters["DATA_WRITE_BYTES"] == chunks * 2 * arch.lanes
    if dram == DramConfig.ideal():  # a beat per port and cycle, as in the estimate
        schedules = {"task": first_schedule(arch)}
        estimated = estimate_graphs({"task": graph}, arch, memory=IDEAL, schedules=schedules)[
            "task"
        ]
        assert abs(estimated.cycles / counters["CYCLES"] - 1) < 0.03


def test_tasks_take_turns_without_leaking() -> None:
    """Eight frames of two tasks with different sizes, one after the other."""
    graphs = {
        "first": random_intgraph(SHAPES["default"], seed=1),
        "second": random_intgraph(SHAPES["all_moe_top4"], seed=2),
    }
    patches = {name: random_patches(graph, 4, seed=4) for name, graph in graphs.items()}
    expected = {name: expected_codes(graph, patches[name]) for name, graph in graphs.items()}
    device = SimulatedAccelerator(make_bundle(graphs, NANO))
    try:
        for frame in range(4):
            for name in graphs:
                got = device.run(name, patches[name][frame : frame + 1])
                np.testing.assert_array_equal(got.codes[0], expected[name][frame])
    finally:
        device.close()
