"""What is recognised is what the file says: deviations refused or right, misreadings seen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from moesaic.compiler import ir
from moesaic.compiler.driver import compile
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.validate.perturb import perturbed
from moesaic.spec.errors import UserError
from tests.compiler.onnx_odd import ACTIVATIONS, GATES, OPERATORS, RIGHT, OddVit
from tests.compiler.onnx_vit import CHANNELS, EXPERTS, TOP_K, Vit
from tests.compiler.validated import compare, read_validated, samples_for

MARGIN = 0.25
"""Largest share of the bound that right graphs come to here: it is not tight by luck."""


@pytest.mark.parametrize("odd", [*GATES, *OPERATORS, *ACTIVATIONS])
def test_deviation_is_refused_or_right(tmp_path: Path, odd: str) -> None:
    path = OddVit(odd=odd, mlp="loop" if odd in GATES else "dense").save(tmp_path)
    if odd not in RIGHT:
        with pytest.raises(UserError) as caught:
            load_graph(path)
        assert "\n" not in str(caught.value)
        return
    try:
        _, found = read_validated(path)
    except UserError as error:
        assert "recognised" not in str(error)  # refused for what it is, not found by comparing
        return
    assert found.worst < MARGIN and not found.near_ties


@pytest.mark.parametrize("mlp", ["node", "loop", "mask", "renormalised", "softmax after"])
@pytest.mark.parametrize("seed", range(3))
def test_exact_ties_go_where_the_file_sends_them(tmp_path: Path, mlp: str, seed: int) -> None:
    _, found = read_validated(OddVit(odd="tie", mlp=mlp, seed=seed).save(tmp_path))
    assert found.worst < MARGIN and not found.near_ties


def test_ties_settled_the_other_way_are_seen(tmp_path: Path) -> None:
    """They are no rounding: every one of them goes wrong."""
    path = OddVit(odd="tie", mlp="node").save(tmp_path)
    graph = load_graph(path)
    moe = graph.layers[1]
    assert isinstance(moe, ir.Moe)
    moe.experts.reverse()
    moe.gate.weight, moe.gate.bias = moe.gate.weight[::-1].copy(), moe.gate.bias[::-1].copy()
    with pytest.raises(UserError, match="layer 1 at"):
        compare(graph, path)


# -- misreadings: one number of a graph changed ------------------------------------------------

Mutation = Callable[[ir.Graph], None]


def _scaled(part: Callable[[ir.Graph], np.ndarray], factor: float = 1.002) -> Mutation:
    """Multiply the largest element of an array: a change that a small one would not be."""

    def mutate(graph: ir.Graph) -> None:
        array = part(graph)
        array[np.unravel_index(np.abs(array).argmax(), array.shape)] *= factor

    return mutate


def _attention(graph: ir.Graph) -> ir.Attention:
    layer = graph.layers[0]
    assert isinstance(layer, ir.Attention)
    return layer


def _moe(graph: ir.Graph) -> ir.Moe:
    layer = graph.layers[1]
    assert isinstance(layer, ir.Moe)
    return layer


def _set(target: Callable[[ir.Graph], object], **values: object) -> Mutation:
    def mutate(graph: ir.Graph) -> None:
        for name, value in values.items():
            setattr(target(graph), name, value)

    return mutate


def _swap_experts(graph: ir.Graph) -> None:
    _moe(graph).experts[:2] = _moe(graph).experts[1::-1]


def _swap_tokens(graph: ir.Graph) -> None:
    graph.embed.gather[[0, 1]] = graph.embed.gather[[1, 0]]


def _swap_outputs(graph: ir.Graph) -> None:
    graph.heads[0].permutation[[0, 1]] = graph.heads[0].permutation[[1, 0]]


MUTATIONS: dict[str, tuple[Mutation, str]] = {
    "patch weight": (_scaled(lambda g: g.embed.linear.weight), "the patch embedding"),
    "position": (_scaled(lambda g: g.embed.initial), "the patch embedding"),
    "patches exchanged": (_swap_tokens, "the patch embedding"),
    "gamma": (_scaled(lambda g: g.layers[0].norm.gamma), "layer 0"),
    "beta": (_scaled(lambda g: g.layers[0].norm.beta, 1.01), "layer 0"),
    "epsilon": (_set(lambda g: g.layers[0].norm, epsilon=1e-3), "layer 0"),
    "query": (_scaled(lambda g: _attention(g).query.weight, 1.05), "layer 0"),
    "value bias": (_scaled(lambda g: _attention(g).value.bias), "layer 0"),
    "output": (_scaled(lambda g: _attention(g).output.weight), "layer 0"),
    "scale of scores": (_set(_attention, scale=0.51), "layer 0"),
    "router": (_scaled(lambda g: _moe(g).gate.weight, 1.01), "layer 1"),
    "renormalised": (_set(_moe, renormalise=True), "layer 1"),
    "one expert more": (_set(_moe, top_k=3), "layer 1"),
    "experts exchanged": (_swap_experts, "layer 1"),
    "up": (_scaled(lambda g: _moe(g).experts[1].up.weight, 1.01), "layer 1"),
    "down bias": (_scaled(lambda g: _moe(g).experts[2].down.bias), "layer 1"),
    "tanh form": (_set(lambda g: _moe(g).experts[0], activation="gelu_tanh"), "layer 1"),
    "head": (_scaled(lambda g: g.heads[0].linear.weight), "the head"),
    "outputs exchanged": (_swap_outputs, "the head"),
    "head's row": (_set(lambda g: g.heads[0], first_row=0), "the head"),
}


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> tuple[ir.Graph, Path]:
    path = Vit(mlp="loop").save(tmp_path_factory.mktemp("right"))
    graph, found = read_validated(path)
    assert found.worst < MARGIN and found.points == 4 and found.samples == 7
    return graph, path


@pytest.mark.parametrize("name", MUTATIONS)
def test_misreading_is_found_where_it_is(right: tuple[ir.Graph, Path], name: str) -> None:
    graph, path = right
    mutate, place = MUTATIONS[name]
    wrong = copy.deepcopy(graph)
    mutate(wrong)
    with pytest.raises(UserError) as caught:
        compare(wrong, path)
    text = str(caught.value)
    assert f"{place} at" in text and "the file computes" in text and "\n" not in text


def test_without_inner_tensors_the_output_decides(right: tuple[ir.Graph, Path]) -> None:
    graph, path = right
    blind = copy.deepcopy(graph)
    blind.streams = [None] * len(graph.streams)
    found = compare(blind, path)
    assert found.points == 1 and found.worst < MARGIN
    _attention(blind).scale *= 1.02
    with pytest.raises(UserError, match="the head at"):
        compare(blind, path)


def test_near_tie_is_excused_and_counted(tmp_path: Path) -> None:
    """Two experts whose scores differ by less than float32 can hold go either way."""
    vit = OddVit(odd="tie", mlp="loop")
    path = vit.save(tmp_path)
    graph = load_graph(path)
    moe = _moe(graph)
    # The file settles ties by number; here they are settled by what float32 cannot hold.
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1e-9, moe.gate.weight.shape)
    moe.gate.weight = moe.gate.weight.astype(np.float64) + noise  # type: ignore[assignment]
    found = compare(graph, path)
    assert found.near_ties and found.worst < MARGIN


def test_shorter_floats_have_the_same_bound(tmp_path: Path) -> None:
    """A file that computes in float16 is compared in float32, and a note says so."""
    graph, found = read_validated(Vit(half=True, mlp="loop").save(tmp_path))
    assert found.worst < MARGIN and graph.notes


def test_compile_compares_and_reports(tmp_path: Path) -> None:
    path = Vit(mlp="loop").save(tmp_path)
    samples = {"x": samples_for(load_graph(path))}
    report = compile({"default": path}, "nano", samples, tmp_path / "bundle")
    found = report["tasks"]["default"]["validation"]
    assert found["points"] == 4 and found["samples"] == 7 and 0 < found["worst"] < MARGIN


def test_compile_refuses_what_it_misreads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever recognition may get wrong, the comparison stands between it and a bundle."""
    path = Vit(mlp="loop").save(tmp_path)

    def misread(*arguments: object) -> ir.Graph:
        graph = load_graph(path)
        _attention(graph).scale *= 1.01
        return graph

    samples = {"x": samples_for(load_graph(path))}
    monkeypatch.setattr("moesaic.compiler.driver.load_graph", misread)
    with pytest.raises(UserError, match="layer 0 at"):
        compile({"default": path}, "nano", samples, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_expert_without_tokens_is_reported(tmp_path: Path) -> None:
    path = Vit(mlp="loop").save(tmp_path)
    graph, found = read_validated(path)
    assert found.unreached_experts == 0
    proto = onnx.load(path)
    # A router whose first two columns always win reaches nobody else.
    router = next(t for t in proto.graph.initializer if list(t.dims) == [CHANNELS, EXPERTS])
    weight = np.zeros((CHANNELS, EXPERTS), np.float32)
    router.CopyFrom(numpy_helper.from_array(weight, router.name))
    onnx.save(proto, path)
    _, found = read_validated(path)
    assert found.unreached_experts == EXPERTS - TOP_K


class Shifted(Vit):
    """A constant that LayerNorm takes off again is added to every channel of one token."""

    shift = 0.0

    def tokens(self, x: str) -> tuple[str, int]:
        tokens, count = super().tokens(x)
        offset = np.zeros((1, count, CHANNELS))
        offset[0, 1] = self.shift
        return self.op("Add", tokens, self.const(offset)), count


@pytest.mark.parametrize("shift", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("name", ["scale of scores", "experts exchanged", "renormalised"])
def test_one_bad_token_hides_nothing(tmp_path: Path, shift: float, name: str) -> None:
    """Rounding of one token leaves the others' bounds, and their near ties, as they are."""
    vit = Shifted(mlp="loop")
    vit.shift = shift
    path = vit.save(tmp_path)
    graph = load_graph(path)
    MUTATIONS[name][0](graph)
    with pytest.raises(UserError, match="was not recognised for what it is|cannot be compared"):
        compare(graph, path)


def test_results_that_are_rounding_alone_are_refused(tmp_path: Path) -> None:
    vit = Shifted(mlp="loop")
    vit.shift = 1e8
    with pytest.raises(UserError, match="cannot be compared: float32 rounding alone"):
        read_validated(vit.save(tmp_path))


@pytest.mark.parametrize("name", MUTATIONS)
def test_one_cast_to_16_bits_hides_no_error(tmp_path: Path, name: str) -> None:
    path = Vit(half=True, mlp="loop").save(tmp_path)
    graph = load_graph(path)
    MUTATIONS[name][0](graph)
    with pytest.raises(UserError, match="was not recognised for what it is"):
        compare(graph, path)


@pytest.mark.parametrize("scale", [1e19, 1e30, 1e38])
@pytest.mark.filterwarnings("error")
def test_huge_samples_are_perturbed_without_a_warning(scale: float) -> None:
    """Eight times as strong may be more than float32 holds, and so may a square."""
    samples = scale * np.random.default_rng(0).uniform(-1, 1, (4, 3, 5)).astype(np.float32)
    found = perturbed(samples)
    assert found.shape == (3, 3, 5) and found.dtype == np.float32 and np.isfinite(found).all()
    assert np.abs(found[0]).max() > 1.5 * np.abs(samples[0]).max()
