"""Two chunks at a time from the scheduler to the gateware: the same bits in fewer cycles."""

from __future__ import annotations

import dataclasses

import pytest

from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.models import estimate_graphs
from moesaic.compiler.report.routing import run_and_watch_routing
from moesaic.compiler.schedule.options import first_schedule
from moesaic.sim.dram import DramConfig
from tests.compiler.random_intgraph import random_intgraph, random_patches
from tests.compiler.test_codegen import SHAPES, SMALL

from .bundles import make_bundle
from .test_estimate import LARGE
from .test_four_bits import MEMORIES, run

PAIRS = dataclasses.replace(SMALL, name="pairs", chunk_pairs=True)


@pytest.mark.parametrize(
    ("shape", "memory"),
    [("all_moe_top4", "gaps"), ("lists_begin_anew", "slow"), ("rotary_wide_heads", "reported")],
)
def test_frames_are_exact(shape: str, memory: str) -> None:
    graph = random_intgraph(SHAPES[shape], seed=3)
    assert run(make_bundle({"task": graph}, PAIRS), graph, MEMORIES[memory])[0]


@pytest.mark.parametrize("seed", [7, 8])
def test_estimate_is_close_to_the_simulation(seed: int) -> None:
    """And pairs save cycles, by both."""
    graph = random_intgraph(dataclasses.replace(LARGE, functions=0.0), seed=seed)
    _, routing = run_and_watch_routing(graph, random_patches(graph, 1, seed=1))
    simulated, estimated = {}, {}
    for arch in (SMALL, PAIRS):
        exact, counters = run(make_bundle({"task": graph}, arch), graph, DramConfig())
        assert exact
        result = estimate_graphs(
            {"task": graph},
            arch,
            routing=routing,
            schedules={"task": first_schedule(arch)},
            memory=Memory(),
        )["task"]
        simulated[arch.name], estimated[arch.name] = counters["CYCLES"], result.cycles
        assert abs(result.cycles / counters["CYCLES"] - 1) < 0.01
    assert simulated["pairs"] < simulated["small"]
    saved = [cycles["small"] - cycles["pairs"] for cycles in (simulated, estimated)]
    assert saved[1] == pytest.approx(saved[0], rel=0.1)
