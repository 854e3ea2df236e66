"""The cycle model: constants of the gateware, bounds that hold for every model, refused input."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby, pairwise

import pytest

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.cycles.frame import WAITS
from moesaic.compiler.estimate.cycles.timing import Memory, Timing
from moesaic.compiler.estimate.models import estimate_graphs
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.task import Estimate, estimate
from moesaic.compiler.estimate.tuning import check_fits, choose_schedule, naming_a_preset
from moesaic.hw.axi.burst import OUTSTANDING_BURSTS
from moesaic.hw.control.fetch import BLOCK_INSTRUCTIONS, BUFFER_INSTRUCTIONS
from moesaic.hw.control.frame import QUIET_CYCLES
from moesaic.hw.interfaces import ACTIVATION_READ_LATENCY
from moesaic.hw.matrix.step import PASS_DISTANCE
from moesaic.hw.matrix.step import Timing as MatrixTiming
from moesaic.hw.matrix.unit import JOB_SLOTS
from moesaic.hw.matrix.walker import REQUEST_SLOTS
from moesaic.hw.stream.lines import SKEW_BEATS
from moesaic.hw.stream.sequencer import SEGMENTS
from moesaic.hw.vector.lanes import Lanes
from moesaic.hw.vector.output import OutputStage
from moesaic.hw.vector.statistics import Statistics
from moesaic.hw.vector.unit import VectorUnit
from moesaic.sim.dram import DramConfig
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.graph_sizes import parts
from moesaic.spec.presets import PRESETS

from .random_intgraph import Shape, random_intgraph
from .test_codegen import SHAPES, SMALL

ARCHS = [SMALL, *PRESETS.values()]
MOE = Shape(moe=(True, True), experts=4, top_k=2, tokens=20, patches=20, head_first=0, head_rows=20)


def estimate_shape(shape: Shape, arch: ArchConfig, memory: Memory | None = None) -> Estimate:
    graph = random_intgraph(shape, seed=1)
    return estimate(
        compile_task(graph, arch, WeightImage(arch)).steps, arch, graph.macs, memory=memory
    )


@pytest.mark.parametrize("arch", ARCHS, ids=lambda a: a.name)
def test_latencies_are_those_of_the_gateware(arch: ArchConfig) -> None:
    timing = Timing.of(arch)
    assert timing.word_to_row == MatrixTiming(arch).end + 2
    assert timing.pass_distance == PASS_DISTANCE
    assert timing.request_slots == REQUEST_SLOTS
    assert timing.job_slots == JOB_SLOTS
    assert timing.operand == 1 + ACTIVATION_READ_LATENCY
    assert timing.chunk == VectorUnit.LATENCY
    assert timing.chunk_slots == OutputStage.DEPTH
    assert timing.update == Lanes.WRITTEN + 1
    assert timing.update_again == Lanes.HAZARD
    assert timing.statistics <= Statistics.LATENCY_LIMIT
    assert timing.segments == SEGMENTS
    assert timing.skew_beats == SKEW_BEATS + 1
    assert timing.outstanding_beats == OUTSTANDING_BURSTS * arch.max_burst
    assert timing.burst_beats == arch.max_burst
    assert timing.store_buffer == 2 * arch.max_burst
    assert timing.fetch_ahead == BUFFER_INSTRUCTIONS
    assert timing.fetch_block == BLOCK_INSTRUCTIONS
    assert timing.end == QUIET_CYCLES + 2


def test_memory_is_that_of_reported_figures() -> None:
    dram, memory = DramConfig(), Memory()
    assert (memory.latency, memory.share) == (dram.latency_cycles, dram.bandwidth_share)
    assert memory.credit == dram.burst_credit_beats
    assert memory.gap == dram.gap_probability * (1 + dram.max_gap_cycles) / 2


@pytest.mark.parametrize("arch", ARCHS, ids=lambda a: a.name)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_estimate_is_below_the_roofline(shape: str, arch: ArchConfig) -> None:
    result = estimate_shape(SHAPES[shape], arch)
    assert result.cycles > result.roofline_cycles > 0
    assert 0 < result.utilisation < 1
    assert all(busy < result.cycles for busy in result.busy.values())
    assert result.busy["matrix"] * arch.macs_per_cycle >= result.macs
    assert sum(layer.cycles for layer in result.layers) == result.cycles
    assert sum(result.kinds.values()) == result.cycles
    assert sum(layer.matrix_busy for layer in result.layers) == result.busy["matrix"]
    assert sum(layer.weight_bytes for layer in result.layers) == result.weight_bytes
    if not SHAPES[shape].taps:  # a tap is stored while the next layer runs
        assert all(layer.cycles > layer.matrix_busy for layer in result.layers)
    kinds = [layer.kind for layer in result.layers]
    assert ("renorm" in kinds) == (SHAPES[shape].renorm > 0)
    graph = random_intgraph(SHAPES[shape], seed=1)
    order = parts(graph.embed, graph.layers, graph.heads)
    names = [type(part).__name__.removeprefix("Int").lower() for part in order]
    assert kinds == ["embed" if name == "tokens" else name for name in names]
    assert (kinds.count("head") > 1) == (SHAPES[shape].taps > 0)
    # Where lists of tokens are, several dense layers follow one another.
    kinds = [k for k, _ in groupby(kind for kind in kinds if kind not in ("renorm", "head"))]
    blocks = ["moe" if moe else "dense" for moe in SHAPES[shape].moe]
    assert kinds == ["embed", *(k for block in blocks for k in ("attention", block))]


def test_slower_memory_never_helps() -> None:
    shape = Shape(tokens=40, patches=39, head_rows=39, channels=96, experts=12, expert_hidden=200)
    memories = [
        Memory(share=share, latency=latency) for share in (1.0, 0.5) for latency in (1, 240)
    ]
    ideal, late, thin, worst = (
        estimate_shape(shape, PRESETS["nano"], memory).cycles for memory in memories
    )
    assert ideal < late < worst and ideal < thin < worst


def test_short_bursts_cost_what_the_latency_is() -> None:
    """Two beats are too few under way; on the RTL the model `nano` takes 1.58 times its cycles."""
    shape = Shape(tokens=40, patches=39, head_rows=39, channels=96, experts=12, expert_hidden=200)
    short = replace(PRESETS["nano"], max_burst=2)
    cycles = {
        (arch.max_burst, latency): estimate_shape(shape, arch, Memory(latency=latency)).cycles
        for arch in (PRESETS["nano"], short)
        for latency in (1, 60)
    }
    assert cycles[2, 60] > 1.4 * cycles[64, 60] and cycles[2, 1] < 1.05 * cycles[64, 1]


def test_experts_that_nobody_chooses_cost_less() -> None:
    """Weights that exceed the ring are not fetched when the routing is known in time."""
    shape = Shape(
        tokens=40, patches=39, head_rows=39, channels=96, heads=2, head_dim=48, value_dim=48,
        experts=12, expert_hidden=200, moe=(True,), top_k=1,
    )  # fmt: skip
    graphs = {"task": random_intgraph(shape, seed=5)}
    spread = estimate_graphs(graphs, PRESETS["nano"])["task"]
    routing = {"moe0": [0] * 11 + [40]}
    single = estimate_graphs(graphs, PRESETS["nano"], routing=routing)["task"]
    assert single.weight_bytes < 0.6 * spread.weight_bytes
    assert single.cycles < spread.cycles


@pytest.mark.parametrize(
    ("routing", "needle"),
    [
        ({"mlp9": [1, 2]}, "moe0, moe1"),
        ({"moe0": [10, 10, 20]}, "4 token counts"),
        ({"moe0": [10, 10, 10, 11]}, "the sum 40"),
        ({"moe0": [21, 19, 0, 0]}, "0 to 20"),
        ({"moe0": [-1, 11, 20, 10]}, "0 to 20"),
    ],
)
def test_routing_that_does_not_fit_is_refused(routing: dict[str, list[int]], needle: str) -> None:
    with pytest.raises(UserError, match=needle):
        estimate_graphs({"task": random_intgraph(MOE)}, SMALL, routing=routing)


def test_program_that_would_hang_is_caught() -> None:
    """Tokens that nobody gives in time leave every unit waiting."""
    graph = random_intgraph(Shape(), seed=1)
    steps = compile_task(graph, SMALL, WeightImage(SMALL)).steps
    matmuls = [step for step in steps if step.opcode.name == "MATMUL"]
    drains = [step for step in steps if step.opcode.name == "DRAIN"]
    matmuls[0].signal.add(drains[0].unit)
    matmuls[0].wait.add(drains[-1].unit)
    drains[0].wait.add(matmuls[0].unit)
    drains[0].signal.add(matmuls[0].unit)
    with pytest.raises(AssertionError, match="hang"):
        estimate(steps, SMALL, graph.macs)


@pytest.mark.parametrize("arch", ARCHS, ids=lambda a: a.name)
@pytest.mark.parametrize("shape", [SHAPES["all_moe_top4"], MOE], ids=["top4", "moe"])
def test_array_time_adds_up_to_the_frame(shape: Shape, arch: ArchConfig) -> None:
    """Every cycle of the array is at work, waits for something, or is behind the last product."""
    result = estimate_shape(shape, arch, Memory(share=0.3))
    accounted = result.drain_cycles
    for layer in result.layers:
        assert all(cycles >= 0 for cycles in layer.matrix_waits.values())
        accounted += layer.matrix_busy + sum(layer.matrix_waits.values())
    assert abs(accounted - result.cycles) <= len(result.layers) * len(WAITS)  # rounded


def test_slow_memory_is_waited_for() -> None:
    """Most of what a slower memory costs is put down to weights; the rest are program and data."""
    slow, fast = (
        estimate_shape(replace(MOE, functions=0.0, expert_hidden=60), SMALL, Memory(share=share))
        for share in (0.05, 1.0)
    )
    waits = [sum(la.matrix_waits["weights"] for la in e.layers) for e in (slow, fast)]
    assert waits[0] - waits[1] > 0.7 * (slow.cycles - fast.cycles) > 1000


@pytest.mark.parametrize("arch", ARCHS, ids=lambda a: a.name)
def test_activities_are_the_work_of_the_units(arch: ArchConfig) -> None:
    result = estimate_shape(MOE, arch)
    for unit, busy in result.busy.items():
        mine = [one for one in result.activities if one.unit == unit]
        assert sum(one.work for one in mine) <= busy
        assert all(a.end <= b.begin for a, b in pairwise(mine))
        assert all(0 <= one.begin < one.end <= result.cycles for one in mine)
    matrix = [one for one in result.activities if one.unit == "matrix"]
    assert sum(one.work for one in matrix) == result.busy["matrix"]
    assert {one.layer for one in matrix} == set(range(len(result.layers)))
    assert "activities" not in result.to_dict()


@pytest.mark.parametrize("arch", ARCHS, ids=lambda a: a.name)
def test_memories_are_filled_within_their_sizes(arch: ArchConfig) -> None:
    fill = estimate_shape(MOE, arch).fill
    assert 0 < fill.ring_mean_bytes <= fill.ring_peak_bytes <= arch.ring_bytes
    assert MOE.tokens <= fill.accumulator_rows <= arch.accumulator_rows


@pytest.mark.parametrize(
    ("tokens", "channels", "advice"),
    [
        (100, 96, "; of the presets zcu102-lite is the smallest that holds it"),
        (197, 192, "; of the presets zcu104 is the smallest that holds it"),
        (197, 384, "; of the presets zcu102-base is the smallest that holds it"),
        (197, 1500, "; no preset holds it"),
    ],
)
def test_a_refusal_names_the_smallest_preset(tokens: int, channels: int, advice: str) -> None:
    # With experts: a stream without may lie in external memory.
    shape = Shape(tokens=tokens, patches=1, head_rows=1, channels=channels, moe=(True,), wide=0.0)
    graph = random_intgraph(shape, seed=1, values=False)
    with pytest.raises(UserError) as caught, naming_a_preset(graph):
        check_fits(graph, PRESETS["nano"])
    assert str(caught.value).endswith(advice) and "target nano" in str(caught.value)
    with pytest.raises(UserError, match="^another$"), naming_a_preset(graph):
        raise UserError("another")


def test_schedule_for_a_slow_memory_loads_weights_once() -> None:
    """In parts of the rows the array and the vector unit take turns, for weights loaded twice."""
    shape = Shape(
        tokens=129, patches=128, head_rows=128, channels=192, heads=3, head_dim=64, value_dim=64,
        hidden=768, moe=(False,), wide=0.0, functions=0.0, pairs=0.0,
    )  # fmt: skip
    graph, arch = random_intgraph(shape, seed=1, values=False), PRESETS["zcu102"]
    slow = Memory(share=0.3)
    chosen = {memory: choose_schedule(graph, arch, memory=memory) for memory in (None, slow)}
    assert chosen[None].row_blocks == 2 and chosen[slow].row_blocks == 1
    cycles = {
        memory: estimate_graphs(
            {"task": graph}, arch, memory=slow, image=ShapeImage(arch), schedules={"task": schedule}
        )["task"].cycles
        for memory, schedule in chosen.items()
    }
    assert cycles[slow] < 0.75 * cycles[None]
    own = estimate_graphs({"task": graph}, arch, memory=slow, image=ShapeImage(arch))["task"]
    assert own.cycles == cycles[slow]
