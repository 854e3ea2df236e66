"""Many frames at once give what each gives alone, and what plain Python integers give."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moesaic.spec import execute, prepared
from moesaic.spec.execute import Executor
from moesaic.spec.graph_sizes import frame_values
from moesaic.spec.intgraph import IntGraph, IntLinear, IntMlp, IntMoe, Scale
from tests.compiler.random_intgraph import Shape, random_intgraph, random_patches
from tests.spec import plain_executor

SMALL = Shape(tokens=4, patches=3, head_rows=3, moe=(True,), experts=4, channels=12, patch_inputs=6)
SHAPES = {
    "top_k_is_experts": replace(SMALL, top_k=4),
    "one_expert": replace(SMALL, experts=1, top_k=1),
    "renormalised": replace(SMALL, top_k=3, renormalise=True),
    "one_token": replace(SMALL, tokens=1, patches=1, head_first=0, head_rows=1),
    "unequal_heads": replace(SMALL, heads=2, head_dim=5, value_dim=9),
    "dense": replace(SMALL, moe=(False,), hidden=50),
    "sums_beyond_24_bits": replace(SMALL, patch_inputs=1100, hidden=1100, moe=(False,), tokens=3,
                                   patches=2, head_rows=2),
}  # fmt: skip


def alone(graph: IntGraph, x: np.ndarray) -> np.ndarray:
    return np.stack([plain_executor.run(graph, frame) for frame in x])


def with_gate_bias(graph: IntGraph, biases: list[int]) -> IntGraph:
    """The same graph, but its first mixture prefers some experts."""
    layers = list(graph.layers)
    number = next(i for i, layer in enumerate(layers) if isinstance(layer, IntMoe))
    moe = layers[number]
    assert isinstance(moe, IntMoe)
    gate = replace(moe.gate, bias=np.array(biases, np.int32))
    layers[number] = replace(moe, gate=gate)
    return replace(graph, layers=tuple(layers))


def record(executor: Executor, x: np.ndarray) -> tuple[np.ndarray, dict[str, list[Tensor]]]:
    """Output codes, and every observed value by name."""
    seen: dict[str, list[Tensor]] = defaultdict(list)
    return executor.run(x, lambda name, value: seen[name].append(value.cpu())), seen


def tokens_per_expert(graph: IntGraph, x: np.ndarray, experts: int) -> list[int]:
    _, seen = record(Executor(graph), x)
    chosen = [values for name, values in seen.items() if name.endswith(".chosen")]
    return [int(n) for n in torch.stack(chosen[0]).flatten().bincount(minlength=experts)]


@pytest.mark.parametrize("name", SHAPES)
def test_batch_equals_plain_integers(name: str) -> None:
    graph = random_intgraph(SHAPES[name], seed=len(name))
    x = random_patches(graph, 3, seed=4)
    got = Executor(graph).run(x)
    assert (got == alone(graph, x)).all()
    assert len(np.unique(got)) > got.size // 8, "the graph's outputs are nearly constant"


@pytest.mark.parametrize("seed", range(3))
def test_computed_exponents_equal_plain_integers(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in heads whose table of numerators would be too large."""
    monkeypatch.setattr(prepared, "MAX_TABLE", 1)
    graph = random_intgraph(SMALL, seed)
    x = random_patches(graph, 3, seed)
    assert (Executor(graph).run(x) == alone(graph, x)).all()


def test_memory_of_a_large_head_is_bounded() -> None:
    """A table of all distances would have 4 * 10**9 entries."""
    for scale in (Scale(0, 0), Scale(1, 63), Scale(65535, 63)):
        table = prepared.numerator_table(scale, 2 * 131071 * 128**2)
        assert table is None or len(table) == 1


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 5),
    st.lists(st.booleans(), min_size=1, max_size=2),
    st.booleans(),
    st.sets(st.integers(1, 3)),
)
def test_random_graphs_equal_plain_integers(
    seed: int,
    tokens: int,
    heads: int,
    experts: int,
    moe: list[bool],
    renormalise: bool,
    parallel: set[int],
) -> None:
    patches = max(1, tokens - 1)
    shape = Shape(
        tokens=tokens, patches=patches, patch_inputs=5, channels=10, heads=heads, head_dim=3,
        value_dim=4, hidden=9, expert_hidden=7, experts=experts, top_k=seed % experts + 1,
        renormalise=renormalise, moe=tuple(moe), outputs=4, head_rows=patches,
        head_first=tokens - patches, parallel=tuple(parallel),
    )  # fmt: skip
    graph = random_intgraph(shape, seed)
    x = random_patches(graph, 3, seed)
    assert (Executor(graph).run(x) == alone(graph, x)).all()


@pytest.mark.parametrize("biases", [[0, 0, 2**30, 0], [0, -(2**30), 0, -(2**30)]])
def test_unequal_experts_equal_plain_integers(biases: list[int]) -> None:
    """One expert gets every token; two get none."""
    shape = replace(SMALL, top_k=1)
    graph = with_gate_bias(random_intgraph(shape, seed=2), biases)
    x = random_patches(graph, 4, seed=1)
    counts = tokens_per_expert(graph, x, shape.experts)
    assert counts[2] == 16 if max(biases) else counts[1] == counts[3] == 0
    assert sum(counts) == 16
    assert (Executor(graph).run(x) == alone(graph, x)).all()


@pytest.mark.parametrize("value", [127, -127, -128])
def test_saturating_weights_and_inputs_equal_plain_integers(value: int) -> None:
    """All weights at one end of their range, inputs at both."""
    graph = random_intgraph(replace(SMALL, moe=(False, True)), seed=3)

    def full(linear: IntLinear) -> IntLinear:
        return replace(linear, weight=np.full_like(linear.weight, value))

    def mlp(part: IntMlp) -> IntMlp:
        return replace(part, up=full(part.up), down=full(part.down))

    layers = []
    for layer in graph.layers:
        if isinstance(layer, IntMoe):
            experts = tuple(mlp(expert) for expert in layer.experts)
            layers.append(replace(layer, gate=full(layer.gate), experts=experts))
        elif hasattr(layer, "mlp"):
            layers.append(replace(layer, mlp=mlp(layer.mlp)))
        else:
            parts = {name: full(getattr(layer, name)) for name in ("query", "key", "output")}
            layers.append(replace(layer, **parts))
    embed = replace(graph.embed, linear=full(graph.embed.linear))
    graph = replace(graph, embed=embed, layers=tuple(layers))
    x = np.full((2, *graph.gather.shape), 127, np.int8)
    x[1] = -128
    assert (Executor(graph).run(x) == alone(graph, x)).all()


def test_experts_add_in_ascending_order_with_saturation_between() -> None:
    """Experts whose addends are full scale, with signs in turns: another order, another sum."""
    graph = random_intgraph(replace(SMALL, top_k=3, renormalise=True), seed=5)
    initial = graph.embed.initial.copy()
    initial[:, ::2] = 30000
    graph = replace(graph, embed=replace(graph.embed, initial=initial))
    layers = list(graph.layers)
    moe = layers[1]
    assert isinstance(moe, IntMoe)

    def push(expert: IntMlp, sign: int) -> IntMlp:
        bias = np.full_like(expert.down.bias, sign * 2**30)
        return replace(expert, down=replace(expert.down, bias=bias))

    experts = [push(expert, sign) for expert, sign in zip(moe.experts, (1, -1, 1, -1), strict=True)]
    layers[1] = replace(moe, experts=tuple(experts), softmax=Scale(0, 0))  # equal weights
    mixed = replace(graph, layers=tuple(layers))
    layers[1] = replace(layers[1], experts=tuple(experts[::-1]), gate=flipped(moe.gate))
    reverse = replace(graph, layers=tuple(layers))
    x = random_patches(graph, 3, seed=1)
    got = Executor(mixed).run(x)
    assert (got == alone(mixed, x)).all()
    assert (got != Executor(reverse).run(x)).any(), "the order of the experts does not matter here"


def flipped(gate: IntLinear) -> IntLinear:
    """The gate of the same experts, numbered the other way round."""
    return IntLinear(gate.weight[::-1], gate.bias[::-1], gate.multiplier[::-1], gate.shift[::-1])


def test_chunks_do_not_influence_each_other() -> None:
    graph = random_intgraph(Shape(), seed=1)
    x = random_patches(graph, 7, seed=2)
    whole = Executor(graph)
    assert whole.chunk_frames >= 7
    parts = Executor(graph)
    parts.chunk_frames = 3
    expected = whole.run(x)
    assert (parts.run(x) == expected).all()
    frames = np.concatenate([whole.run(frame[None]) for frame in x])
    assert (frames == expected).all() and (expected[0] != expected[1]).any()
    assert whole.run(x[:0]).shape == (0, *expected.shape[1:])


def test_chunk_is_bounded_by_the_widest_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = random_intgraph(Shape(pairs=0.0), seed=1)
    values = frame_values(graph)
    # 9 tokens, 3 heads of 8 each for query, key and value
    assert values == 9 * 72
    for limit, frames in ((values - 1, 1), (values * 5, 5), (values * 6 - 1, 5)):
        monkeypatch.setitem(execute.CHUNK_VALUES, "cpu", limit)
        assert Executor(graph).chunk_frames == frames


def test_observer_sees_each_frame_as_if_it_were_alone() -> None:
    graph = random_intgraph(Shape(moe=(False, True)), seed=1)
    x = random_patches(graph, 3, seed=2)

    _, together = record(Executor(graph), x)
    apart = [record(Executor(graph), frame[None])[1] for frame in x]
    assert {"embed", "0.head2.probability", "3.chosen", "3.residual", "head.norm"} < set(together)
    for name, values in together.items():
        assert len(values) == 3 and all(value.dtype == torch.int64 for value in values)
        for value, single in zip(values, apart, strict=True):
            assert torch.equal(value, single[name][0]), name


def test_lower_precision_of_the_program_changes_nothing() -> None:
    graph = random_intgraph(Shape(), seed=1)
    x = random_patches(graph, 2, seed=2)
    expected = Executor(graph).run(x)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert (Executor(graph).run(x) == expected).all()
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("wide", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_cuda_equals_cpu(seed: int, wide: float) -> None:
    shape = Shape(tokens=70, patches=69, head_rows=69, channels=96, hidden=384, experts=9, top_k=3)
    long = Shape(patch_inputs=1100)
    for graph in (random_intgraph(replace(shape, wide=wide), seed), random_intgraph(long, seed)):
        x = random_patches(graph, 9, seed)
        on_cpu, on_cuda = Executor(graph), Executor(graph, "cuda")
        on_cuda.chunk_frames = 4
        want, expected = record(on_cpu, x)
        got, seen = record(on_cuda, x)
        assert expected.keys() == seen.keys()
        for name, values in expected.items():
            assert all(map(torch.equal, values, seen[name])), name
        assert (got == want).all()
        assert (on_cuda.run(x) == want).all(), "without an observer"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_cuda_ignores_tf32() -> None:
    graph = random_intgraph(Shape(), seed=1)
    x = random_patches(graph, 2, seed=2)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert (Executor(graph, "cuda").run(x) == Executor(graph).run(x)).all()
    finally:
        torch.set_float32_matmul_precision(before)
