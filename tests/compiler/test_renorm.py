"""Streams that begin anew: LayerNorm behind the embedding, and behind the sum of a layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moesaic.compiler import ir
from moesaic.compiler.accuracy.reals import in_reals
from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.quant import QuantOptions, quantise, rewrite_tasks
from moesaic.compiler.rewrite import fold_norms, rotate_residual
from moesaic.compiler.schedule.lower import lower
from moesaic.compiler.schedule.options import first_schedule
from moesaic.models.metrics import sqnr_db
from moesaic.spec.execute import Executor
from moesaic.spec.graphcheck import check_shapes, check_values
from moesaic.spec.hostside import quantise_input
from moesaic.spec.intgraph import IntGraph, IntRenorm
from moesaic.spec.isa import Opcode
from moesaic.spec.presets import PRESETS
from tests.compiler.onnx_vit import CHANNELS, Vit
from tests.compiler.quant_models import SMALL, dense_graph, random_samples
from tests.compiler.validated import read_validated
from tests.outputs import only_output

STREAMS = {
    "normalised": ["renorm", "attention", "dense"],
    "post-norm": ["attention", "renorm", "dense"],
    "normalised and post-norm": ["renorm", "attention", "renorm", "dense"],
}
"""Form of a stream to the kinds of its layers: a norm in front of the head is the head's."""


@pytest.mark.parametrize("norm", ["node", "arithmetic", "sum", "without beta"])
@pytest.mark.parametrize("stream", STREAMS)
def test_is_recognised_with_every_stream_of_the_file(
    tmp_path: Path, stream: str, norm: str
) -> None:
    graph, found = read_validated(Vit(stream=stream, norm=norm).save(tmp_path))
    last = ["renorm"] if "post" in stream else []  # the head has a norm of its own
    assert [ir.layer_kind(layer) for layer in graph.layers] == STREAMS[stream] + last
    assert None not in graph.streams and found.points == len(graph.layers) + 2
    assert [layer.norm.plain for layer in graph.layers if not isinstance(layer, ir.Renorm)] == [
        "post" in stream
    ] * 2


@pytest.mark.parametrize("mlp", ["loop", "node", "renormalised"])
@pytest.mark.parametrize("stream", STREAMS)
def test_mixture_on_such_a_stream(tmp_path: Path, stream: str, mlp: str) -> None:
    graph, _ = read_validated(Vit(stream=stream, mlp=mlp).save(tmp_path))
    assert any(isinstance(layer, ir.Moe) for layer in graph.layers)


def test_last_norm_is_the_heads(tmp_path: Path) -> None:
    graph, _ = read_validated(Vit(stream="post-norm", head="no norm").save(tmp_path))
    assert [ir.layer_kind(layer) for layer in graph.layers] == STREAMS["post-norm"]
    assert not graph.heads[0].norm.plain


@pytest.mark.parametrize("mlp", ["dense", "loop", "node"])
def test_layers_without_any_norm(tmp_path: Path, mlp: str) -> None:
    """The class token is a constant row of what they read."""
    vit = Vit(mlp=mlp)
    norm = vit.layer_norm
    vit.layer_norm = lambda x, epsilon=1e-6: x  # type: ignore[method-assign]
    vit.finish = lambda x, count: vit.dense(norm(x), CHANNELS, 5)  # type: ignore[method-assign]
    graph, _ = read_validated(vit.save(tmp_path))
    assert all(layer.norm.plain for layer in graph.layers) and not graph.heads[0].norm.plain


def begun_anew(graph: ir.Graph, at: int, seed: int = 0, beta: float = 0.3) -> ir.Graph:
    """The graph with a LayerNorm onto the stream in front of layer ``at``."""
    random = np.random.default_rng(seed)
    gamma = random.uniform(0.3, 2, graph.channels) * random.choice([-1, 1], graph.channels)
    norm = ir.Norm(
        gamma.astype(np.float32),
        random.normal(0, beta, graph.channels).astype(np.float32),
        1e-5,
        "pre",
    )
    none = np.zeros(graph.channels, np.float32)
    layer = ir.Renorm(norm, ir.Linear(np.eye(graph.channels, dtype=np.float32), none, "pre"), "pre")
    layers = [*graph.layers[:at], layer, *graph.layers[at:]]
    heads = [replace(head, depth=head.depth + (head.depth >= at)) for head in graph.heads]
    return replace(graph, layers=layers, heads=heads, streams=[])


def integer_db(graph: ir.Graph, integer: IntGraph, samples: np.ndarray) -> float:
    codes = Executor(integer).run(quantise_input(integer, samples))
    exact = run_float(graph, samples)
    return sqnr_db(exact, only_output(integer, codes).reshape(exact.shape))


@pytest.mark.parametrize("at", [0, 1, 3])
def test_rewrites_leave_the_function_as_it_is(at: int) -> None:
    graph = begun_anew(dense_graph(), at)
    samples = random_samples(count=4)
    exact = run_float(graph, samples)
    for options in (QuantOptions(), QuantOptions(rotate=False)):
        rewritten = rewrite_tasks({"seg": graph}, {"seg": samples}, options)["seg"]
        assert sqnr_db(exact, run_float(rewritten, samples)) > 110
    rotated = rotate_residual(fold_norms(graph))
    assert sqnr_db(exact, run_float(rotated, samples)) > 110
    renorm = rotated.layers[at]
    assert isinstance(renorm, ir.Renorm)
    assert np.count_nonzero(renorm.linear.weight) > graph.channels  # no diagonal any more
    assert np.array_equal(rotated.embed.initial, graph.embed.initial)


def test_stream_without_layers_is_not_rotated() -> None:
    graph = fold_norms(dense_graph())
    graph = fold_norms(begun_anew(graph, len(graph.layers)))
    assert rotate_residual(graph) is graph


def test_diagonal_is_exact_and_each_stream_has_its_step() -> None:
    """What is left is rounding to 16 bits: of the normalised rows, and of the stream."""
    graph = dense_graph()
    graph = replace(
        graph,
        embed=replace(
            graph.embed,
            initial=graph.embed.initial / 64,
            linear=replace(graph.embed.linear, weight=graph.embed.linear.weight / 64),
        ),
    )
    graph = begun_anew(graph, 0, beta=30)
    samples = random_samples(count=8)
    integer, _ = quantise(graph, samples, "seg", QuantOptions(rotate=False))
    check_shapes(integer)
    check_values(integer)
    renorm, float_renorm = integer.layers[0], graph.layers[0]
    assert isinstance(renorm, IntRenorm) and isinstance(float_renorm, ir.Renorm)
    assert np.array_equal(
        renorm.linears[0].weight, np.diag(127 * np.sign(float_renorm.norm.gamma)).astype(np.int8)
    )
    assert renorm.residual_scale > 50 * integer.residual_scale

    streams: list[np.ndarray] = []
    patches = quantise_input(integer, samples)
    Executor(integer).run(
        patches,
        lambda name, value: streams.append(value.numpy()) if name == "0.residual" else None,
    )
    before: list[np.ndarray] = []
    Executor(integer).run(
        patches, lambda name, value: before.append(value.numpy()) if name == "embed" else None
    )
    # The float layer on what the integers have in front of it.
    rows = np.stack(before) * integer.residual_scale
    centred = rows - rows.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + float_renorm.norm.epsilon)
    exact = normal * float_renorm.norm.gamma + float_renorm.norm.beta
    error = np.abs(np.stack(streams) * renorm.residual_scale - exact)
    assert error.max() < 0.51 * renorm.residual_scale + 2e-3


@pytest.mark.parametrize("at", [0, 2])
def test_integers_follow_the_floats(at: int) -> None:
    graph = begun_anew(dense_graph(), at)
    samples = random_samples(count=8)
    for options in (QuantOptions(), QuantOptions(rotate=False)):
        integer, report = quantise(graph, samples, "seg", options)
        without, _ = quantise(dense_graph(), samples, "seg", options)
        there = integer_db(graph, integer, samples)
        assert there > integer_db(dense_graph(), without, samples) - 4
        assert report.points[f"{at}.residual"].bits == report.points[f"{at}.norm"].bits == 16
        reals, roundings = in_reals(integer)
        assert f"{at}.residual" in roundings
        assert sqnr_db(run_float(graph, samples), run_float(reals, samples)) > there


def test_rotated_matrix_keeps_more_than_8_bits() -> None:
    """With a few large gammas, as CLIP has, most columns would have few codes."""
    graph = begun_anew(dense_graph(), 0)
    renorm = graph.layers[0]
    assert isinstance(renorm, ir.Renorm)
    renorm.norm.gamma[[3, 17]] = 40, -60
    graph = rotate_residual(fold_norms(graph))
    integer, _ = quantise(graph, random_samples(count=8), "seg", QuantOptions(rotate=False))
    check_shapes(integer)
    check_values(integer)
    rotated, layer = graph.layers[0], integer.layers[0]
    assert isinstance(rotated, ir.Renorm) and isinstance(layer, IntRenorm)
    reals = in_reals(integer)[0].layers[0]
    first = in_reals(replace(integer, layers=(replace(layer, linears=layer.linears[:1]),)))[0]
    alone = first.layers[0]
    assert isinstance(reals, ir.Renorm) and isinstance(alone, ir.Renorm)
    exact = rotated.linear.weight
    assert sqnr_db(exact, reals.linear.weight) > sqnr_db(exact, alone.linear.weight) + 35


def test_tiny_gamma_and_large_beta_stay_in_32_bits() -> None:
    """A bias in steps of a tiny weight would not fit; gamma 0 leaves beta alone."""
    graph = begun_anew(dense_graph(), 0, beta=5)
    renorm = graph.layers[0]
    assert isinstance(renorm, ir.Renorm)
    renorm.norm.gamma[:3] = 0, 1e-9, 1e-6
    samples = random_samples(count=8)
    integer, _ = quantise(graph, samples, "seg", QuantOptions(rotate=False))
    check_values(integer)
    layer = integer.layers[0]
    assert isinstance(layer, IntRenorm)
    assert integer_db(graph, integer, samples) > 25
    (linear,) = layer.linears
    factor = np.ldexp(linear.multiplier.astype(float), -linear.shift.astype(int))
    given = linear.bias * factor * layer.residual_scale / 256
    assert np.abs(given - renorm.norm.beta).max() < layer.residual_scale


def test_only_tiles_on_the_diagonal_are_computed(tmp_path: Path) -> None:
    graph = begun_anew(dense_graph(), 0)
    samples = random_samples(count=8)
    arch = PRESETS["nano"]
    for options, dense in ((QuantOptions(rotate=False), False), (QuantOptions(), True)):
        if dense:
            graph = rotate_residual(fold_norms(graph))
            options = QuantOptions(rotate=False)
        integer, _ = quantise(graph, samples, "seg", options)
        steps = [s for s in lower(integer, arch, first_schedule(arch)) if s.layer == 1]
        kinds = [step.opcode for step in steps]
        assert kinds[:2] == [Opcode.NORM, Opcode.LOAD]
        tiles = sum(
            int(s.fields["k_tiles"]) * int(s.fields["n_tiles"]) * int(s.fields["groups"])  # type: ignore[arg-type]
            for s in steps
            if s.opcode is Opcode.MATMUL
        )
        across = -(-SMALL.dim // arch.width)
        assert arch.width == arch.depth
        assert tiles == (2 * across**2 if dense else across)


def test_channels_in_another_order_are_refused(tmp_path: Path) -> None:
    vit = Vit(stream="normalised")
    norm, count = vit.layer_norm, [0]

    def turned(x: str, epsilon: float = 1e-6) -> str:
        count[0] += 1
        result = norm(x, epsilon)
        if count[0] > 1:
            return result
        return vit.op("Gather", result, vit.const(np.arange(CHANNELS)[::-1], np.int64), axis=2)

    vit.layer_norm = turned  # type: ignore[method-assign]
    with pytest.raises(Exception, match="its channels are not those of its input in their order"):
        load_graph(vit.save(tmp_path))
