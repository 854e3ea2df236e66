"""What the host does to inputs and outputs: rounding, clamping, order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesaic.spec.hostside import dequantise_outputs, quantise_input
from moesaic.spec.intgraph import IntGraph
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.outputs import only_output


def one_row(scale: float, values: int) -> IntGraph:
    graph = random_intgraph(Shape(moe=()), seed=1)
    gather = np.arange(values).reshape(1, values)
    return replace(graph, input_scale=scale, input_shape=(1, values), gather=gather)


def codes(scale: float, values: list[float]) -> list[int]:
    x = np.array([values], np.float32)
    got = quantise_input(one_row(scale, len(values)), x)
    assert got.dtype == np.int8 and got.shape == (1, 1, len(values))
    return got[0, 0].tolist()


def test_halves_are_rounded_up() -> None:
    assert codes(1.0, [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]) == [-2, -1, 0, 1, 2, 3]
    assert codes(0.25, [-0.125, 0.125, 0.3750, -0.375]) == [0, 1, 2, -1]
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    assert codes(1.0, [below, -below]) == [0, 0]


def test_zero_has_the_code_that_the_graph_says() -> None:
    graph = replace(one_row(1.0, 4), input_zero=-128)
    got = quantise_input(graph, np.array([[0.0, 1.4, 255.0, 300.0]], np.float32))
    assert got[0, 0].tolist() == [-128, -127, 127, 127]


def test_codes_are_clamped_at_both_ends() -> None:
    assert codes(1.0, [127.4, 127.5, 1e30, np.inf]) == [127, 127, 127, 127]
    assert codes(1.0, [-128.5, -128.6, -1e30, -np.inf]) == [-128, -128, -128, -128]
    assert codes(1.0, [126.49, 126.5, -127.5, -127.51]) == [126, 127, -127, -128]


def test_the_quotient_is_taken_in_float64() -> None:
    # Of values near a half, float32 quotients would land on either side.
    scale = 0.1
    values = np.linspace(-13, 13, 4001).astype(np.float32)
    exact = np.clip(np.floor(values.astype(np.float64) / scale + 0.5), -128, 127)
    assert codes(scale, values.tolist()) == exact.astype(int).tolist()
    halves = (scale * (np.arange(-100, 100) + 0.5)).astype(np.float32)
    exact = np.floor(halves.astype(np.float64) / scale + 0.5)
    assert codes(scale, halves.tolist()) == exact.astype(int).tolist()


def test_inputs_are_gathered_frame_by_frame() -> None:
    graph = one_row(1.0, 6)
    gather = np.array([[5, 0, 3], [1, 2, 4]])
    graph = replace(graph, input_shape=(1, 2, 3), gather=gather)
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    got = quantise_input(graph, x)
    assert got.shape == (4, 2, 3)
    for frame in range(4):
        assert (got[frame] == x[frame].reshape(-1)[gather]).all()


def with_head(
    graph: IntGraph,
    shape: tuple[int, ...],
    scale: float,
    permutation: np.ndarray,
    rows: int,
    columns: int,
) -> IntGraph:
    """The graph with one head of another layout; its weights mean nothing."""
    head = graph.heads[0]
    linear = replace(head.linear, weight=np.zeros((columns, graph.channels), np.int8))
    changed = replace(
        head, shape=shape, scale=scale, permutation=permutation, rows=rows, linear=linear
    )
    return replace(graph, heads=(changed,))


def test_codes_of_several_outputs_are_those_of_each() -> None:
    graph = random_intgraph(Shape(taps=1.0), seed=1)
    codes = np.random.default_rng(0).integers(-99, 99, (3, graph.codes)).astype(np.int16)
    outputs = dequantise_outputs(graph, codes)
    assert list(outputs) == [head.name for head in graph.heads] and len(outputs) == 6
    start = 0
    for head in graph.heads:
        part = codes[:, start : start + head.codes].astype(np.float64) * head.scale
        assert (outputs[head.name] == part.astype(np.float32)).all()
        start += head.codes


@pytest.mark.parametrize("frames", [1, 3])
def test_outputs_are_scaled_and_permuted_frame_by_frame(frames: int) -> None:
    graph = random_intgraph(Shape(moe=()), seed=1)
    rng = np.random.default_rng(frames)
    shape = (1, 5, 2, 3)
    permutation = rng.permutation(30).reshape(shape[1:])
    graph = with_head(graph, shape, 0.1, permutation, 6, 5)
    values = rng.integers(-32768, 32768, (frames, 30)).astype(np.int16)
    got = only_output(graph, values)
    assert got.dtype == np.float32 and got.shape == (frames, 5, 2, 3)
    for frame in range(frames):
        flat = values[frame].reshape(-1)[permutation]
        assert (got[frame] == (flat.astype(np.float64) * 0.1).astype(np.float32)).all()


def test_full_scale_codes_keep_their_sign() -> None:
    graph = random_intgraph(Shape(moe=()), seed=1)
    graph = with_head(graph, (1, 2), 2.0, np.array([1, 0]), 1, 2)
    got = only_output(graph, np.array([[-32768, 32767]], np.int16))
    assert got.tolist() == [[65534.0, -65536.0]]
