"""Dense layers that work on some of the tokens: rows in one piece, and queues from constants."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.models import estimate_graphs
from moesaic.compiler.schedule.lists import Routing
from moesaic.compiler.schedule.options import first_schedule
from moesaic.spec import isa, semantics
from moesaic.spec.arch import ArchConfig
from moesaic.spec.constants import may_have_bytes, pack_constants
from moesaic.spec.errors import UserError
from moesaic.spec.execute import Executor
from moesaic.spec.graph_sizes import count_macs
from moesaic.spec.intgraph import IntDense, IntGraph, IntLayer
from moesaic.spec.isa import Opcode
from tests.hazards import check_order

from .random_intgraph import Shape, random_intgraph, random_lists, random_patches
from .test_codegen import SMALL, run_both

TOKENS = 30
SHAPE = Shape(tokens=TOKENS, patches=29, head_rows=29, moe=(False,), lists=1.0, pairs=0.0)


def listed(*lists: list[int] | range, shape: Shape = SHAPE, seed: int = 1) -> IntGraph:
    """A graph whose last layers, on one norm, have these lists."""
    graph = random_intgraph(dataclasses.replace(shape, lists=0.0), seed=seed)
    attention, dense = graph.layers
    assert isinstance(dense, IntDense)
    other = random_intgraph(dataclasses.replace(shape, lists=0.0), seed=seed + 1).layers[1]
    assert isinstance(other, IntDense)
    layers: list[IntLayer] = [attention]
    for number, tokens in enumerate(lists):
        mlp = dense.mlp if number % 2 == 0 or other.wide != dense.wide else other.mlp
        layers.append(
            dataclasses.replace(
                dense,
                mlp=mlp,
                name=f"list{number}",
                parallel=number > 0,
                tokens=np.array(list(tokens), np.int64),
            )
        )
    heads = tuple(dataclasses.replace(head, depth=len(layers)) for head in graph.heads)
    macs = count_macs(graph.embed, tuple(layers), heads, len(graph.gather))
    return dataclasses.replace(graph, layers=tuple(layers), heads=heads, macs=macs)


def opcodes(graph: IntGraph, arch: ArchConfig = SMALL) -> list[Opcode]:
    return [step.opcode for step in compile_task(graph, arch, WeightImage(arch)).steps]


@pytest.mark.parametrize("top", [2, 5, 16])
def test_weight_of_one_chosen_expert_is_exactly_one(top: int) -> None:
    """A queue then adds what a dense layer adds."""
    import torch

    scores = torch.from_numpy(np.random.default_rng(top).integers(0, 3, (400, top)))
    _, weights = semantics.route(scores, 1, True, 0, 0)
    assert (weights == semantics.ONE_Q15).all()


@pytest.mark.parametrize("seed", range(40))
def test_random_lists_in_the_program(seed: int) -> None:
    graph = random_intgraph(dataclasses.replace(SHAPE, moe=(False, True, False)), seed=seed)
    image = WeightImage(SMALL)
    code = compile_task(graph, SMALL, image)
    got, expected = run_both(graph, SMALL, code, image.tobytes(), seed)
    np.testing.assert_array_equal(got, expected)
    check_order(SMALL, code.program, [seed], code.steps)
    assert may_have_bytes(graph, SMALL, len(code.constants))


def test_lists_of_one_token_and_of_all() -> None:
    for lists in ([range(1)], [range(TOKENS)], [[0], range(1, TOKENS)], [[29], [0, 29], [3, 5]]):
        graph, image = listed(*lists), WeightImage(SMALL)
        code = compile_task(graph, SMALL, image)
        got, expected = run_both(graph, SMALL, code, image.tobytes(), 1)
        np.testing.assert_array_equal(got, expected)


def test_a_list_of_all_tokens_is_a_dense_layer() -> None:
    some, patches = listed(range(TOKENS)), random_patches(listed(range(TOKENS)), 2)
    layers = tuple(
        dataclasses.replace(layer, tokens=None) if isinstance(layer, IntDense) else layer
        for layer in some.layers
    )
    every = dataclasses.replace(some, layers=layers)
    assert (Executor(some).run(patches) == Executor(every).run(patches)).all()
    assert opcodes(some) == opcodes(every)


def test_tokens_in_no_list_are_left_alone() -> None:
    graph = listed([2, 3, 7], [11])
    seen: dict[str, np.ndarray] = {}
    Executor(graph).run(random_patches(graph, 1), lambda name, v: seen.update({name: v.numpy()}))
    differs = (seen["2.residual"] != seen["0.residual"]).any(1)
    assert np.flatnonzero(differs).tolist() == [2, 3, 7, 11]


@pytest.mark.parametrize(
    ("lists", "routes"),
    [
        ([range(4, 9), range(9, 30)], 0),
        ([[0, 2, 4], [1, 3, 5], [20, 22]], 1),  # none shares a token
        ([[0, 2, 4], [4, 6], [8, 10]], 2),
        ([[0, 2], range(3, 9), [10, 12]], 2),  # no neighbours
    ],
)
def test_routings_are_as_few_as_can_be(lists: list[list[int]], routes: int) -> None:
    graph = listed(*lists)
    assert opcodes(graph).count(Opcode.ROUTE) == routes
    found = [routing.rows for routing in Routing.all(graph, SMALL)]
    assert all(sum(rows) == TOKENS for rows in found) and len(found) == routes


def test_a_router_of_few_experts_makes_several_routings() -> None:
    arch = dataclasses.replace(SMALL, max_experts=4)
    graph, image = listed(*([n, n + 8] for n in range(7))), WeightImage(arch)
    code = compile_task(graph, arch, image)
    assert sum(step.opcode is Opcode.ROUTE for step in code.steps) == 3
    got, expected = run_both(graph, arch, code, image.tobytes(), 1)
    np.testing.assert_array_equal(got, expected)


def test_estimate_counts_the_rows_of_every_list() -> None:
    """The lists, not equal shares: a long and a short one swap their cycles with their lengths."""
    wide = dataclasses.replace(SHAPE, hidden=200, wide=0.0)
    schedules = {"task": first_schedule(SMALL)}

    def cycles(*lists: list[int]) -> int:
        graphs = {"task": listed(*lists, shape=wide)}
        return estimate_graphs(graphs, SMALL, schedules=schedules)["task"].cycles

    few, many = [0, 2, 4], [1, 3, *range(5, 29)]
    assert cycles(few, many) > cycles(few, [7, 9, 11]) + 500
    assert cycles([0, 2, 4], [1, 3, 5]) < cycles([*range(0, 28, 2)], [*range(1, 28, 2)])


def test_macs_are_those_of_the_lists() -> None:
    none, some = listed(range(TOKENS)), listed([1, 3], [7])
    each = sum(
        part.weight.size
        for part in (some.layers[1].mlp.up, some.layers[1].mlp.down)  # type: ignore[union-attr]
    )
    other = some.layers[2].mlp  # type: ignore[union-attr]
    both = 2 * each + other.up.weight.size + other.down.weight.size
    assert some.macs == none.macs - TOKENS * each + both


def test_constants_hold_the_lists() -> None:
    """A bit of each token for each scattered list, behind everything else."""
    graph = listed([0, 2], range(3, 6), [1, 29])
    without = listed(range(3), range(3, 6), range(7))
    rows = np.frombuffer(pack_constants(graph, SMALL), np.int8).reshape(-1, SMALL.depth)[-TOKENS:]
    assert [np.flatnonzero(rows[:, c]).tolist() for c in range(3)] == [[0, 2], [1, 29], []]
    less = len(pack_constants(graph, SMALL)) - len(pack_constants(without, SMALL))
    assert less == TOKENS * SMALL.depth


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"max_tokens": 16}, "layer list0 routes 30 tokens, the router holds 16"),
        ({"accumulator_rows": 32}, None),
        ({"max_experts": 1}, "layer list0 needs 2 queues for its tokens, the router holds 1"),
    ],
)
def test_targets_that_are_too_small(changes: dict[str, int], needle: str | None) -> None:
    arch, graph = dataclasses.replace(SMALL, **changes), listed([0, 2], [5, 9])
    if needle is None:
        compile_task(graph, arch, WeightImage(arch))
        return
    with pytest.raises(UserError, match=needle) as error:
        compile_task(graph, arch, WeightImage(arch))
    assert "use a larger target" in str(error.value)


def test_fetches_of_lists_do_not_wait() -> None:
    """No queue is empty, so its weights are fetched at once."""
    graph = listed([0, 2], [5, 9])
    schedule = dataclasses.replace(first_schedule(SMALL), speculated_experts=0)
    code = compile_task(graph, SMALL, WeightImage(SMALL), schedule)
    streams = [
        s for s in code.steps if s.opcode is isa.Opcode.STREAM and s.fields.get("predicated")
    ]
    assert streams and all(step.fields["speculate"] for step in streams)


def test_lists_of_the_random_graphs() -> None:
    """All kinds occur: ranges, overlaps, tokens in none."""
    rng = np.random.default_rng(1)
    drawn = [random_lists(rng, 12) for _ in range(200)]
    ranges = [all((np.diff(part) == 1).all() for part in lists) for lists in drawn]
    counts = [np.bincount(np.concatenate(lists), minlength=12) for lists in drawn]
    assert 40 < sum(ranges) < 150
    assert sum(count.max() > 1 for count in counts) > 40
    assert sum(count.min() == 0 for count in counts) > 40
