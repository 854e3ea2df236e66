"""Attention some heads at a time, whose results lie in scratch meanwhile: the same results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.tuning import choose_schedule
from moesaic.compiler.schedule.options import first_schedule
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.constants import angle_words
from moesaic.spec.errors import UserError
from tests.hazards import check_order

from .random_intgraph import random_intgraph
from .test_codegen import SMALL, run_both
from .test_spill import DENSE, SHAPES, TWO

NETWORKS = {
    **SHAPES,
    "from host": replace(DENSE, from_host=True, head_rows=40, head_first=0),
    "rotary": replace(DENSE, rotary=1.0, wide=0.5),
    "five heads": replace(DENSE, heads=5, head_dim=7, value_dim=11),
    "wide values": replace(DENSE, heads=3, value_dim=40, wide=1.0),
}


MEMORIES = ((8192, 0, 1), (2048, 1, 5), (1024, 0, 3))
"""Of the residual scratchpad, in bytes: for all 40 rows, and for few; rows that are kept or not;
parts of the queries."""


@pytest.mark.parametrize("head_groups", [2, 99])
@pytest.mark.parametrize("arch", [SMALL, TWO], ids=lambda arch: arch.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_groups_give_the_same(name: str, arch: ArchConfig, head_groups: int) -> None:
    graph = random_intgraph(NETWORKS[name], seed=len(name))
    number = list(NETWORKS).index(name) + 2 * [SMALL, TWO].index(arch) + head_groups // 2
    residual_bytes, norms_kept, query_blocks = MEMORIES[number % 3]
    turned = sum(angle_words(graph, arch).values()) * 2 * arch.lanes
    arch = replace(arch, residual_bytes=residual_bytes if not turned else 8192)
    image = WeightImage(arch)
    schedule = replace(
        first_schedule(arch),
        query_blocks=query_blocks,
        norms_kept=norms_kept,
        head_groups=head_groups,
    )
    code = compile_task(graph, arch, image, schedule)
    got, expected = run_both(graph, arch, code, image.tobytes(), 0)
    np.testing.assert_array_equal(got, expected)
    check_order(arch, code.program, range(1))
    assert any(
        step.opcode is isa.Opcode.STORE and step.label.startswith("attention")
        for step in code.steps
    )


def test_the_search_takes_few_heads_at_a_time() -> None:
    """160 tokens, two heads of 24 channels: their keys and values take 15 KiB, and 16 are there."""
    arch = replace(SMALL, activation_bytes=16 << 10, activation_banks=2, max_tokens=256)
    shape = replace(DENSE, tokens=160, patches=160, head_rows=8, head_first=0, heads=2)
    graph = random_intgraph(replace(shape, head_dim=24, value_dim=24, wide=0.0), values=False)
    schedule = choose_schedule(graph, arch)
    assert (schedule.head_groups, schedule.norms_kept) == (2, 0)
    check_order(arch, compile_task(graph, arch, ShapeImage(arch), schedule).program, range(1))
    with pytest.raises(UserError, match="keys and values of one head need 960 words"):
        choose_schedule(graph, replace(arch, activation_bytes=4 << 10))
    less = replace(arch, activation_bytes=8 << 10)
    experts = replace(shape, head_dim=24, value_dim=24, moe=(True, False))
    with pytest.raises(UserError, match="the keys and values need 1920 words beside"):
        choose_schedule(random_intgraph(experts, values=False), less)
