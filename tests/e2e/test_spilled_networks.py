"""Streams that the residual memory does not hold, in whole networks on the RTL."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from moesaic.compiler.estimate.models import estimate_graphs
from moesaic.compiler.schedule.options import Schedule, first_schedule
from moesaic.compiler.schedule.spill import resident_rows
from moesaic.sim.dram import DramConfig
from moesaic.sim.provider import SimulatedAccelerator
from moesaic.spec import layout, scratch
from moesaic.spec.arch import ArchConfig
from moesaic.spec.bundle import Bundle
from moesaic.spec.intgraph import InputCodes, IntGraph
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph, random_patches
from tests.compiler.test_codegen import SMALL as ROOMY

from .bundles import expected_codes, make_bundle

NANO = PRESETS["nano"]
FOUR = replace(
    NANO,
    name="nano-four",
    weight_ports=4,
    weight_port_bytes=8,
    data_port_bytes=8,
    output_ports=4,
)
SMALL = replace(ROOMY, residual_bytes=16 << 10)
TOKENS = {"nano": (100, 96), "nano-four": (100, 96), "small": (60, 160)}
"""Tokens and channels; the memory holds 85 of the 100 rows, and 51 of the 60."""
DENSE = Shape(moe=(False, False), taps=0.0)
SHAPES = {
    "alternating": replace(DENSE, moe=(False,) * 3),
    "parallel": replace(DENSE, parallel=(1, 3)),
    "four on one norm": replace(DENSE, parallel=(1, 2, 3)),
    "wide": replace(DENSE, wide=1.0, heads=2, hidden=24),
    "rotary": replace(DENSE, rotary=1.0, parallel=(3,)),
    "from host": replace(DENSE, from_host=True),
    "from host, rotary": replace(DENSE, from_host=True, rotary=1.0, wide=0.5),
}
ARCHES = [NANO, FOUR, SMALL]
MEMORIES = {
    "gaps": DramConfig(gap_probability=0.4, seed=6),
    "late": DramConfig(latency_cycles=300, bandwidth_share=0.3, gap_probability=0.1, seed=7),
}


def sized(shape: Shape, arch: ArchConfig, front: int, first: int, rows: int) -> Shape:
    """A stream that does not fit, whose first ``front`` rows are no patches; its head reads
    ``rows`` rows from ``first`` on."""
    tokens, channels = TOKENS[arch.name]
    return replace(
        shape,
        tokens=tokens,
        patches=tokens - front,
        channels=channels,
        head_first=first,
        head_rows=min(rows, tokens - first),
    )


@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.name)
@pytest.mark.parametrize("name", SHAPES)
def test_spilled_network_is_bit_exact(name: str, arch: ArchConfig) -> None:
    """Whatever the memory does, with few large blocks of rows or more than the store unit has
    under way, normalised before a block leaves or when it is read; and the estimate holds."""
    number, machine = list(SHAPES).index(name), ARCHES.index(arch)
    seed = number + 4 * machine
    row_blocks, norms_kept = (1, 3, 20)[seed % 3], (number + machine) % 2
    shape = sized(SHAPES[name], arch, front=seed % 4, first=seed % 5, rows=200)
    graph = random_intgraph(shape, seed)
    assert graph.tokens > resident_rows(graph, arch)
    schedule = replace(first_schedule(arch), row_blocks=row_blocks, norms_kept=norms_kept)
    check_network(graph, arch, schedule, seed)


@pytest.mark.parametrize("name", SHAPES)
def test_heads_in_groups_are_bit_exact(name: str) -> None:
    """Their results, of 8 bits or 16, go to external memory and come back."""
    seed = list(SHAPES).index(name)
    arch = ARCHES[seed % 3]
    shape = sized(SHAPES[name], arch, front=seed % 2, first=seed % 3, rows=200)
    graph = random_intgraph(shape, seed)
    schedule = replace(
        first_schedule(arch),
        query_blocks=(1, 3)[seed % 2],
        row_blocks=(1, 3)[seed // 2 % 2],
        norms_kept=0,
        head_groups=(2, 99)[seed % 2],
    )
    check_network(graph, arch, schedule, seed)


def check_network(graph: IntGraph, arch: ArchConfig, schedule: Schedule, seed: int) -> None:
    """Bit for bit on the RTL, whatever the memory does; and cycles and bytes as estimated."""
    bundle = make_bundle({"task": graph}, arch, schedule)
    outputs = [(head.rows, head.linear.outputs) for head in graph.heads]
    assert scratch.scratch_bytes(arch, bundle.programs["task"], outputs) > 0
    patches = random_patches(graph, 2, seed)
    expected = expected_codes(graph, patches)
    assert len(np.unique(expected)) > 20
    counters = run_and_compare(bundle, patches, expected, DramConfig())
    for memory in MEMORIES.values():
        run_and_compare(bundle, patches[:1], expected[:1], memory)
    schedules = {"task": schedule}
    estimated = estimate_graphs({"task": graph}, arch, schedules=schedules)["task"]
    assert abs(estimated.cycles / counters["CYCLES"] - 1) < 0.03
    moved = counters["DATA_READ_BYTES"] + counters["DATA_WRITE_BYTES"]
    assert estimated.data_bytes == moved


def run_and_compare(
    bundle: Bundle, patches: InputCodes, expected: NDArray[np.int16], memory: DramConfig
) -> dict[str, int]:
    """Counters of the last frame."""
    device = SimulatedAccelerator(bundle, dram=memory)
    try:
        result = device.run("task", patches)
    finally:
        device.close()
    np.testing.assert_array_equal(result.codes, expected)
    return result.counters[-1]


@pytest.mark.parametrize("arch", [FOUR, SMALL], ids=lambda arch: arch.name)
@pytest.mark.parametrize(
    ("front", "first", "rows"),
    [(0, 0, 200), (30, 0, 1), (45, 40, 15), (59, 59, 1), (1, 7, 50)],
    ids=["all patches", "class token", "across blocks", "one patch at the end", "most"],
)
def test_patches_and_heads_need_no_whole_blocks(
    arch: ArchConfig, front: int, first: int, rows: int
) -> None:
    shape = sized(DENSE, arch, front, first, rows)
    graph = random_intgraph(shape, seed=front + first)
    patches = random_patches(graph, 1, seed=rows)
    bundle = make_bundle({"task": graph}, arch)
    run_and_compare(bundle, patches, expected_codes(graph, patches), MEMORIES["gaps"])


def test_a_spilled_task_and_another_take_turns() -> None:
    """What one left in the residual memory, and in scratch, is of no use to the other."""
    graphs = {
        "spilled": random_intgraph(sized(SHAPES["alternating"], NANO, 1, 1, 99), seed=1),
        "fits": random_intgraph(Shape(tokens=20, patches=19, moe=(False, True)), seed=2),
        "host": random_intgraph(sized(SHAPES["from host"], NANO, 0, 0, 100), seed=3),
    }
    patches = {name: random_patches(graph, 2, seed=4) for name, graph in graphs.items()}
    expected = {name: expected_codes(graph, patches[name]) for name, graph in graphs.items()}
    device = SimulatedAccelerator(make_bundle(graphs, NANO))
    try:
        for frame in range(2):
            for name in graphs:
                got = device.run(name, patches[name][frame : frame + 1])
                np.testing.assert_array_equal(got.codes[0], expected[name][frame])
        for name, graph in graphs.items():
            shapes = [(head.rows, head.linear.outputs) for head in graph.heads]
            behind = device.driver.windows(name)["output0"][1] - scratch.port_bytes(NANO, shapes)
            words = graph.tokens * layout.words(graph.channels, NANO.lanes)
            assert (behind >= words * 2 * NANO.lanes) == (name != "fits")
    finally:
        device.close()
