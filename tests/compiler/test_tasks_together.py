"""Several tasks of one image in one program: the results of each are those of it alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.joint_routing import given_routing, joint_routing
from moesaic.compiler.estimate.models import estimate_bundle
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.schedule.capacity import check_capacity
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.options import Schedule, first_schedule
from moesaic.compiler.together import check_programs, estimate_joint, read_requests
from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.execute import Executor
from moesaic.spec.intgraph import IntAttention, IntGraph, IntMoe
from moesaic.spec.presets import PRESETS
from tests.e2e.bundles import make_bundle
from tests.functional import FunctionalModel
from tests.hazards import check_order
from tests.outputs import at_the_end

from .random_intgraph import Shape, random_intgraph, random_patches
from .test_frames import ROOMY

SHAPES = {
    "one mixture": Shape(tokens=20, patches=19, head_rows=19, moe=(False, True, False)),
    "mixtures": Shape(tokens=17, patches=16, head_rows=16, moe=(True, False, True), experts=6),
    "first of all": Shape(tokens=9, patches=9, head_first=0, head_rows=9, moe=(True,)),
    "parallel": Shape(tokens=12, patches=11, head_rows=5, moe=(False, True), parallel=(1, 3)),
    "taps": Shape(tokens=12, patches=11, head_rows=5, moe=(False, True), taps=1.0),
    "rotary": Shape(tokens=14, patches=13, head_rows=13, moe=(False, True), rotary=1.0, wide=0.5),
    "from host": Shape(tokens=14, patches=14, head_rows=5, from_host=True, moe=(False, True)),
    "begins anew": Shape(tokens=14, patches=13, channels=72, renorm=1.0, moe=(False, True)),
    "heads alone": Shape(tokens=14, patches=13, head_rows=13, moe=(False, False)),
}


def sibling(graph: IntGraph, shape: Shape, seed: int) -> IntGraph:
    """A task with the same layers, and gates and heads of its own."""
    other = random_intgraph(shape, seed)
    layers = []
    for mine, its in zip(graph.layers, other.layers, strict=True):
        if isinstance(mine, IntMoe) and isinstance(its, IntMoe):
            mine = replace(mine, gate=its.gate)
        layers.append(mine)
    return replace(graph, task=f"other{seed}", layers=tuple(layers), heads=other.heads)


def family(name: str, count: int) -> list[IntGraph]:
    graph = random_intgraph(SHAPES[name], seed=len(name))
    return [graph, *(sibling(graph, SHAPES[name], seed) for seed in range(1, count))]


@pytest.mark.parametrize(("count", "frames"), [(2, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("name", SHAPES)
def test_tasks_together_are_each_as_alone(name: str, count: int, frames: int) -> None:
    schedule = replace(first_schedule(ROOMY), row_blocks=count, norms_kept=count % 2)
    check(family(name, count), frames, ROOMY, schedule)


def check(graphs: list[IntGraph], frames: int, arch: ArchConfig, schedule: Schedule) -> None:
    """Compare what is computed together with each alone."""
    joint, image, count = Joint(tuple(graphs), frames), WeightImage(arch), len(graphs)
    code = compile_task(joint, arch, image, schedule)
    patches = random_patches(graphs[0], frames, seed=count)
    inputs = b"".join(layout.pack_codes(arch, frame) for frame in patches)
    model = FunctionalModel(arch, image.tobytes(), code.constants, inputs, count * frames)
    raw = model.run(code.program)
    expected = [codes for graph in graphs for codes in Executor(graph).run(patches)]
    np.testing.assert_array_equal(
        layout.unpack_outputs(arch, raw, joint.outputs), np.concatenate(expected)
    )
    check_order(arch, code.program, range(1))
    assert len({codes.tobytes() for codes in expected}) == count * frames


def matmul_rows(arch: ArchConfig, graphs: list[IntGraph]) -> dict[str, int]:
    """Rows of the array's products by layer."""
    found: dict[str, int] = {}
    for step in compile_task(Joint(tuple(graphs)), arch, ShapeImage(arch)).steps:
        if step.opcode is isa.Opcode.MATMUL:
            found[step.label] = found.get(step.label, 0) + int(step.fields.get("rows", 0))  # type: ignore[arg-type]
    return found


def test_what_is_common_is_computed_once() -> None:
    graphs = family("one mixture", 2)
    assert Joint(tuple(graphs)).common == 3
    alone, both = matmul_rows(ROOMY, graphs[:1]), matmul_rows(ROOMY, graphs)
    common = ("embed", *(layer.name for layer in graphs[0].layers[:3]))
    assert all(both[name] == alone[name] for name in common)
    behind = [layer.name for layer in graphs[0].layers[4:]]
    assert behind and all(both[name] == 2 * alone[name] for name in behind)


def test_what_differs_in_more_than_gates_is_refused() -> None:
    graph, other = family("mixtures", 2)
    attention = next(layer for layer in graph.layers if isinstance(layer, IntAttention))
    changed = replace(attention, scale=replace(attention.scale, multiplier=7))
    layers = tuple(changed if layer is attention else layer for layer in other.layers)
    with pytest.raises(UserError, match="differs in more than its gate; run them one by one"):
        Joint((graph, replace(other, layers=layers)))
    with pytest.raises(UserError, match="their inputs or embeddings differ"):
        Joint((graph, replace(other, input_scale=0.5)))
    shorter = replace(other, layers=layers[:-1], heads=at_the_end(other.heads, len(layers) - 1))
    for pair in ((graph, shorter), (shorter, graph)):
        counts = " and ".join(str(len(one.layers)) for one in pair)
        with pytest.raises(UserError, match=f"they have {counts} layers; run them one by one"):
            Joint(pair)
    nano = PRESETS["nano"]
    large = replace(SHAPES["heads alone"], tokens=100, patches=99, head_rows=99, channels=96)
    one = random_intgraph(large, 1)
    with pytest.raises(UserError, match="of 2 tasks together, its residual stream needs 600 words"):
        compile_task(Joint((one, sibling(one, large, 2))), nano, ShapeImage(nano))


def differing_late() -> list[IntGraph]:
    """Two tasks that have all but the last gate in common, and large attention."""
    shape = replace(
        SHAPES["mixtures"], tokens=20, patches=19, moe=(True, True), heads=10, channels=8
    )
    graph = random_intgraph(replace(shape, wide=0.0, pairs=0.0), seed=4)
    other = sibling(graph, replace(shape, wide=0.0, pairs=0.0), 1)
    return [graph, replace(other, layers=(*graph.layers[:3], other.layers[3]))]


def test_memory_is_needed_for_streams_that_are_there() -> None:
    """Attention in front of the first gate that differs has keys and values of one stream."""
    graphs = differing_late()
    few = replace(ROOMY, activation_bytes=3 << 11)
    schedule = replace(first_schedule(few), row_blocks=4, norms_kept=0, experts_ahead=0)
    check(graphs, 1, few, schedule)
    with pytest.raises(UserError, match="2 frames of 2 tasks together, the keys and values need"):
        check_capacity(Joint(tuple(graphs), 2), few)


def test_routing_is_known_where_it_is_of_all_streams() -> None:
    graphs = differing_late()
    first, last = (layer.name for layer in graphs[0].layers if isinstance(layer, IntMoe))
    routing = {graphs[0].task: {first: [20, 20], last: [30, 10]}, graphs[1].task: {last: [10, 30]}}
    work = Joint(tuple(graphs), 2)
    assert joint_routing(work, routing) == {first: [40, 40], last: [80, 80]}
    assert joint_routing(work, {graphs[0].task: routing[graphs[0].task]}) == {first: [40, 40]}
    assert not joint_routing(work, {})


def test_routing_that_a_user_gives() -> None:
    """Of single frames by task, or of all together."""
    graphs = differing_late()
    first, last = (layer.name for layer in graphs[0].layers if isinstance(layer, IntMoe))
    one, two = (graph.task for graph in graphs)
    work = Joint(tuple(graphs), 2)
    by_task = {f"{one}/{first}": [20, 20], f"{one}/{last}": [30, 10], f"{two}/{last}": [10, 30]}
    both = {first: [40, 40], last: [80, 80]}
    assert given_routing(work, "joint", by_task) == both
    for whole in (both, {f"joint/{layer}": counts for layer, counts in both.items()}):
        assert given_routing(work, "joint", whole) == both
    with pytest.raises(UserError, match=f"routing of {one}/{last} needs that of {one}, {two}"):
        given_routing(work, "joint", {f"{one}/{last}": [30, 10]})
    # What is no layer is refused where layers are looked up, by the name that was given.
    assert given_routing(work, "joint", {f"{one}/none": [1]}) == {f"{one}/none": [1]}


@pytest.mark.parametrize("together", [[None], ["a,b", 3]])
def test_what_is_no_text_is_refused(together: Any) -> None:
    with pytest.raises(UserError, match="is named as seg,depth"):
        read_requests(together, ["a", "b"])


def test_one_request_needs_no_list() -> None:
    assert read_requests("a,b", ["a", "b"]) == {"a+b": (("a", "b"), 1)}


def test_more_programs_than_a_bundle_holds_are_refused_at_once() -> None:
    check_programs(range(7), range(9))
    with pytest.raises(UserError, match="16 programs, not 9 of a task and 8 of several tasks"):
        check_programs(range(8), range(9))


def test_tasks_without_reports_are_estimated() -> None:
    graph, other = family("first of all", 2)
    graphs = {task.task: task for task in (graph, other)}
    bundle = replace(make_bundle(graphs, ROOMY), report={"tasks": {}})
    assert list(estimate_bundle(bundle)) == list(graphs)
    (together,) = estimate_joint(bundle, [",".join(graphs)])
    assert together == "+".join(graphs)
