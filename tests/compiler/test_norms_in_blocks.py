"""Rows that are normalised when they are read: the same results, with less of the scratchpad."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.task import estimate
from moesaic.compiler.estimate.tuning import choose_schedule
from moesaic.compiler.schedule.options import first_schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntAttention, IntDense
from tests.hazards import check_order

from .random_intgraph import random_intgraph
from .test_codegen import SHAPES as NETWORKS
from .test_codegen import SMALL, run_both
from .test_spill import DENSE, TWO
from .test_spill import SHAPES as SPILLED

SHAPES = {
    **SPILLED,
    "from host": replace(DENSE, from_host=True, head_rows=40, head_first=0),
}


@pytest.mark.parametrize("blocks", [(1, 1), (3, 5)], ids=["one block", "blocks"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_the_same(name: str, blocks: tuple[int, int]) -> None:
    """Also those some of whose layers need all rows: experts, lists, new beginnings."""
    graph, image = random_intgraph(NETWORKS[name], seed=len(name)), WeightImage(SMALL)
    row_blocks, query_blocks = blocks
    schedule = replace(
        first_schedule(SMALL), row_blocks=row_blocks, query_blocks=query_blocks, norms_kept=0
    )
    code = compile_task(graph, SMALL, image, schedule)
    got, expected = run_both(graph, SMALL, code, image.tobytes(), 0)
    np.testing.assert_array_equal(got, expected)
    check_order(SMALL, code.program, range(1))


@pytest.mark.parametrize("residual_bytes", [2048, 512, 320])
@pytest.mark.parametrize("arch", [SMALL, TWO], ids=lambda arch: arch.name)
@pytest.mark.parametrize("name", SHAPES)
def test_spilled_streams_give_the_same(name: str, arch: ArchConfig, residual_bytes: int) -> None:
    """The memory holds 21, 5 and 3 of the 40 rows."""
    arch = replace(arch, residual_bytes=residual_bytes)
    graph, image = random_intgraph(SHAPES[name], seed=len(name)), WeightImage(arch)
    query_blocks = 9 if residual_bytes == 512 else 1
    schedule = replace(first_schedule(arch), query_blocks=query_blocks, norms_kept=0)
    code = compile_task(graph, arch, image, schedule)
    got, expected = run_both(graph, arch, code, image.tobytes(), 0)
    np.testing.assert_array_equal(got, expected)
    check_order(arch, code.program, range(1))
    kinds = [layer.kind for layer in estimate(code.steps, arch, graph.macs).layers]
    names = {IntAttention: "attention", IntDense: "dense"}
    assert kinds == ["embed", *(names[type(layer)] for layer in graph.layers), "head"]


def test_memory_of_two_rows_is_refused() -> None:
    arch = replace(SMALL, residual_bytes=256)
    graph = random_intgraph(SHAPES["dense"], values=False)
    schedule = replace(first_schedule(arch), norms_kept=0)
    with pytest.raises(UserError, match="256 bytes, less than 3 rows of its residual stream"):
        compile_task(graph, arch, ShapeImage(arch), schedule)


@pytest.mark.parametrize("residual_bytes", [20 << 10, 2 << 10], ids=["resident", "spilled"])
def test_only_keys_and_values_are_of_all_tokens(residual_bytes: int) -> None:
    """160 tokens of 48 channels: a scratchpad of 24 KiB holds three times their rows, not queries,
    keys, values and normalised ones, and the search finds what does with less."""
    arch = replace(
        SMALL,
        activation_bytes=24 << 10,
        activation_banks=3,
        residual_bytes=residual_bytes,
        max_tokens=256,
        accumulator_rows=64,
    )
    shape = replace(DENSE, tokens=160, patches=160, head_rows=8, head_first=0, heads=2)
    graph = random_intgraph(replace(shape, head_dim=24, value_dim=24, wide=0.0), values=False)
    schedule = choose_schedule(graph, arch)
    assert not schedule.norms_kept
    code = compile_task(graph, arch, ShapeImage(arch), schedule)
    check_order(arch, code.program, range(1))
    with pytest.raises(UserError, match="use a target with more activation_bytes"):
        compile_task(graph, arch, ShapeImage(arch), replace(schedule, norms_kept=1))
