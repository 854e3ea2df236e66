"""Rows that are normalised in parts: what reads them begins with the first, and gives the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.task import estimate
from moesaic.compiler.estimate.tuning import _changed
from moesaic.compiler.schedule.options import first_schedule, stored_schedule
from moesaic.compiler.schedule.steps import Step
from moesaic.spec import isa
from moesaic.spec.errors import UserError
from tests.hazards import check_order

from .random_intgraph import Shape, random_intgraph
from .test_codegen import SHAPES as NETWORKS
from .test_codegen import SMALL, run_both
from .test_frames import ROOMY
from .test_tasks_together import check, family

AHEAD = replace(first_schedule(SMALL), head_start=2)


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_the_same(name: str, parts: int) -> None:
    """Also those some of whose layers have none: rotations, pairs, lists, new beginnings."""
    graph, image = random_intgraph(NETWORKS[name], seed=len(name)), WeightImage(SMALL)
    schedule = replace(AHEAD, head_start=parts, bank_tiles=parts - 1, planes_freed=parts % 2)
    code = compile_task(graph, SMALL, image, schedule)
    got, expected = run_both(graph, SMALL, code, image.tobytes(), 0)
    np.testing.assert_array_equal(got, expected)
    check_order(SMALL, code.program, range(1))


@pytest.mark.parametrize("name", ["mixtures", "parallel", "rotary"])
def test_tasks_together_give_the_same(name: str) -> None:
    check(family(name, 2), 2, ROOMY, replace(first_schedule(ROOMY), head_start=2))


def label_steps(steps: list[Step], label: str, opcode: isa.Opcode) -> list[Step]:
    return [step for step in steps if step.label == label and step.opcode is opcode]


def test_array_begins_with_the_first_rows() -> None:
    """A dense layer, attention and a gate: two products of half the rows, then one of all with the
    tiles that are left. The array waits for results less long than without."""
    shape = Shape(
        tokens=40, patches=39, head_rows=39, channels=64, heads=2, head_dim=32, value_dim=32,
        moe=(False, True), hidden=256, experts=4, wide=0.0, pairs=0.0, taps=0.0,
    )  # fmt: skip
    graph, waits = random_intgraph(shape, values=False), {}
    for parts in (1, 2):
        schedule = replace(AHEAD, head_start=parts)
        steps = compile_task(graph, SMALL, ShapeImage(SMALL), schedule).steps
        layers = estimate(steps, SMALL, graph.macs).layers
        waits[parts] = {layer.label: layer.matrix_waits["order"] for layer in layers}
        for layer in graph.layers:
            rows = [s.fields["rows"] for s in label_steps(steps, layer.name, isa.Opcode.NORM)]
            assert rows == [40 // parts] * parts
    for layer, tiles in zip(graph.layers, (2, 8, 2, 1), strict=True):
        assert waits[2][layer.name] < waits[1][layer.name], layer.name
        products = label_steps(steps, layer.name, isa.Opcode.MATMUL)
        begun = [(20, min(2, tiles))] * 2
        expected = begun + [(40, tiles - 2)] * (tiles > 2)
        found = [
            (step.fields.get("rows"), len(step.weights.columns) // SMALL.width)
            for step in products[: len(expected)]
            if step.weights
        ]
        assert found == expected, layer.name
    # The last tile of what adds to the stream ends part by part, but in front of the head.
    for layer, following in zip(graph.layers, (2, 2, 2, 1), strict=True):
        drains = [
            step.fields["rows"]
            for step in label_steps(steps, layer.name, isa.Opcode.DRAIN)
            if step.fields["kind"] is isa.Drain.RESIDUAL and "rows" in step.fields
        ]
        expected = [40, 20, 20] if following == 2 else []
        assert drains == expected, layer.name


def test_blocks_of_rows_are_their_own_head_start() -> None:
    graph, programs = random_intgraph(NETWORKS["default"], values=False), []
    for parts in (1, 2):
        schedule = replace(AHEAD, head_start=parts, row_blocks=2)
        programs.append(compile_task(graph, SMALL, ShapeImage(SMALL), schedule).program)
    assert programs[0] == programs[1]


def test_earlier_bundles_have_none() -> None:
    fields = {name: value for name, value in vars(AHEAD).items() if name != "head_start"}
    assert stored_schedule(SMALL, fields, "old") == replace(AHEAD, head_start=1)
    with pytest.raises(UserError, match="holds no schedule for small"):
        stored_schedule(SMALL, {**fields, "head_start": 0}, "odd")
    for damaged in ([1], "x", None, {**fields, "row_blocks": "1"}, {**fields, "row_blocks": 1.0}):
        with pytest.raises(UserError, match="holds no schedule for small"):
            stored_schedule(SMALL, damaged, "odd")  # type: ignore[arg-type]


def test_search_tells_blocks_from_a_head_start() -> None:
    """One choice leaves the other, in both directions."""
    ahead = _changed(replace(AHEAD, row_blocks=2, head_start=1), "head_start", 3)
    assert (ahead.row_blocks, ahead.head_start) == (1, 3)
    blocks = _changed(ahead, "row_blocks", 2)
    assert (blocks.row_blocks, blocks.head_start) == (2, 1)
