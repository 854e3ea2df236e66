"""Attention reordering: operand loads fall as N^2/p with the parallelism, counted on the RTL."""

from __future__ import annotations

import math

import pytest

from moesaic.sim.provider import SimulatedAccelerator
from moesaic.sim.statistics import operand_words, query_rows
from moesaic.spec.arch import ArchConfig
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph, random_patches
from tests.compiler.test_codegen import SMALL

from .bundles import make_bundle

TOKENS = 48
SHAPE = Shape(
    tokens=TOKENS, patches=47, head_rows=47, heads=2, head_dim=8, value_dim=8, moe=(False,)
)


def score_vectors(parallelism: int) -> int:
    """Key and query vectors that Q*K^T of one head needs: N^2 / p streamed, N held."""
    return TOKENS * math.ceil(TOKENS / parallelism) + TOKENS


@pytest.mark.parametrize("arch", [PRESETS["nano"], SMALL], ids=lambda a: f"p{a.width}")
def test_operand_loads_follow_the_formula(arch: ArchConfig) -> None:
    """Exact counts at two widths: the streamed part is N * ceil(N / p), whatever p is."""
    graph = random_intgraph(SHAPE, seed=1)
    bundle = make_bundle({"task": graph}, arch)
    device = SimulatedAccelerator(bundle)
    try:
        counters = device.run("task", random_patches(graph, 1)).counters[0]
    finally:
        device.close()
    blocks = math.ceil(TOKENS / (arch.accumulator_rows // math.ceil(TOKENS / arch.width)))
    keys = TOKENS * (blocks - 1)  # a block of queries that does not fit loads the keys again
    scores = score_vectors(arch.width) + keys
    value_words = arch.width // arch.depth  # words of one row of a value tile
    values = TOKENS * math.ceil(TOKENS / arch.depth) + blocks * TOKENS * value_words
    loads = counters["MATRIX_OPERAND_LOADS"] + counters["ATTENTION_STREAM_WORDS"]
    assert loads == SHAPE.heads * (scores + values)
    rows = query_rows(bundle.programs["task"])
    assert math.ceil(TOKENS / rows) == blocks
    assert loads == operand_words(graph, arch, rows)
