"""The library that the device `cpu` computes with, against torch: every level of instructions."""

from __future__ import annotations

import os
from dataclasses import fields, replace

import numpy as np
import pytest

from moesaic.host import Session
from moesaic.host.cpu import constants, library
from moesaic.host.cpu.executor import CHUNK_FRAMES, NativeExecutor
from moesaic.host.cpu.library import Pool, levels
from moesaic.host.torch_devices import CpuDevice
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.execute import Executor
from moesaic.spec.intgraph import (
    IntActivation,
    IntAttention,
    IntDense,
    IntEmbed,
    IntGraph,
    IntHead,
    IntLinear,
    IntMlp,
    IntMoe,
    IntNorm,
    IntRenorm,
    IntRotary,
    IntTokens,
    Scale,
)
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph, random_patches
from tests.e2e.bundles import make_bundle
from tests.spec.test_execute_batched import SHAPES as BATCHED
from tests.spec.test_semantics_executor import SHAPES as FORMS

LONG = Shape(tokens=131, patches=130, head_rows=131, head_first=0, channels=70, hidden=75,
             expert_hidden=33, experts=5, moe=(False, True), heads=2, head_dim=66, value_dim=67,
             rotary=0.5)  # fmt: skip
"""More of everything than a tile, a block and a thread's piece hold, and no multiple of them."""
SHAPES = {**FORMS, **{f"batched {name}": shape for name, shape in BATCHED.items()}, "long": LONG}


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool(3)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return make_bundle({"task": random_intgraph(Shape(), seed=1)}, PRESETS["nano"])


KNOWN = {
    IntGraph: "task input_name input_shape input_scale gather residual_scale embed layers heads"
    " macs input_zero",
    IntEmbed: "linear initial first_row",
    IntTokens: "tokens channels",
    IntAttention: "norm query key value output heads head_dim value_dim softmax scale name wide"
    " wide_query wide_attended parallel rotary",
    IntDense: "norm mlp name wide parallel tokens",
    IntMoe: "norm gate top_k renormalise softmax experts name wide sigmoid parallel corrections",
    IntRenorm: "norm linears residual_scale name",
    IntHead: "name shape scale permutation depth norm linear first_row rows wide",
    IntNorm: "channels epsilon scale plain",
    IntMlp: "up activation scale down offset wide paired",
    IntLinear: "weight bias multiplier shift weight_bits",  # the last is of the weight image alone
    IntActivation: "name step fine positive negative linear",
    IntRotary: "cosine sine",
    Scale: "multiplier shift",
}


@pytest.mark.parametrize("kind", KNOWN)
def test_library_knows_every_field(kind: type) -> None:
    """What it does not know it would leave out: add a field here when ``host/cpu`` heeds it."""
    assert [field.name for field in fields(kind)] == KNOWN[kind].split()


def test_library_is_there() -> None:
    """Or all that follows would test nothing: `make setup` builds it."""
    assert levels()[-1:] == ["plain"]


@pytest.mark.parametrize("name", SHAPES)
def test_every_level_equals_torch(name: str, pool: Pool) -> None:
    for seed in (len(name), len(name) + 1):
        graph = random_intgraph(SHAPES[name], seed)
        for frames in (2, 4):  # fewer than threads, and more
            x = random_patches(graph, frames, seed)
            want = Executor(graph).run(x)
            for level in levels():
                for threads in (None, pool):
                    got = NativeExecutor(graph, level, threads).run(x)
                    assert got.dtype == np.int16 and (got == want).all(), (level, seed, frames)


@pytest.mark.parametrize("value", [127, -128])
def test_ends_of_ranges_equal_torch(value: int) -> None:
    """Weights at one end of their range, inputs at both, and gains that saturate."""
    graph = random_intgraph(replace(FORMS["mixed"], wide=0.5), seed=3)

    def full(linear: IntLinear) -> IntLinear:
        return replace(linear, weight=np.full_like(linear.weight, value))

    attention, dense = graph.layers[:2]
    attention = replace(attention, key=full(attention.key), output=full(attention.output))
    dense = replace(dense, mlp=replace(dense.mlp, up=full(dense.mlp.up)))
    graph = replace(graph, layers=(attention, dense, *graph.layers[2:]))
    x = np.full((2, *graph.gather.shape), 127, np.int8)
    x[1] = -128
    want = Executor(graph).run(x)
    for level in levels():
        assert (NativeExecutor(graph, level).run(x) == want).all(), level


def test_chunks_do_not_influence_each_other(pool: Pool) -> None:
    graph = random_intgraph(FORMS["mixed"], seed=5)
    x = random_patches(graph, CHUNK_FRAMES + 3, seed=5)
    for threads in (None, pool):
        executor = NativeExecutor(graph, levels()[0], threads)
        assert (executor.run(x) == Executor(graph).run(x)).all()
        assert executor.run(x[:0]).shape == (0, graph.codes)


def test_one_changed_weight_is_noticed() -> None:
    graph = random_intgraph(FORMS["all_8_bits"], seed=1)
    head = graph.heads[0]
    weight = head.linear.weight.copy()
    weight[0, -1] ^= 64
    changed = replace(head, linear=replace(head.linear, weight=weight))
    x = random_patches(graph, 2, seed=1)
    other = NativeExecutor(replace(graph, heads=(changed, *graph.heads[1:])), levels()[0]).run(x)
    assert (other != Executor(graph).run(x)).any()


def run_on(bundle: Bundle, **options: object) -> tuple[CpuDevice, np.ndarray]:
    graph = bundle.graphs["task"]
    device = CpuDevice(bundle, **options)
    codes = device.run("task", random_patches(graph, 3, seed=2)).codes
    device.close()
    return device, codes


def test_kernels_are_an_option(bundle: Bundle) -> None:
    default, want = run_on(bundle)
    assert default.kernels == levels()[0]
    for kernels in (*levels(), "torch", "best"):
        device, codes = run_on(bundle, kernels=kernels, threads=2)
        assert (codes == want).all() and (kernels == "best" or device.kernels == kernels)
    with pytest.raises(UserError, match="cpu.kernels must be one of best, .*plain, torch, not"):
        Session(bundle, "cpu", {"cpu": {"kernels": "sse"}})


def test_torch_computes_sums_beyond_32_bits(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, want = run_on(bundle)
    monkeypatch.setattr(constants, "LARGEST_SUM", 1000)
    with pytest.raises(constants.OutOfRange):
        NativeExecutor(bundle.graphs["task"], levels()[0])
    seen: list[IntGraph] = []
    run = Executor.run
    monkeypatch.setattr(
        Executor, "run", lambda self, *given: (seen.append(self.graph), run(self, *given))[1]
    )
    _, codes = run_on(bundle)
    assert (codes == want).all() and len(seen) == 1


def test_torch_computes_without_a_library_of_these_formats(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, want = run_on(bundle)
    other = (*library._FORMATS[:-1], 0)
    for name, value in (("_FORMATS", other), ("PLACES", ()), ("_STRUCTURES", (library.CNorm,))):
        with monkeypatch.context() as changed:
            changed.setattr(library, name, value)
            library.load.cache_clear()
            device, codes = run_on(bundle)
            assert device.kernels == "torch" and (codes == want).all()
    library.load.cache_clear()
    assert levels()


def test_forked_child_opens_its_own_threads(bundle: Bundle) -> None:
    device = CpuDevice(bundle, threads=2)
    x = random_patches(bundle.graphs["task"], 3, seed=2)
    want = device.run("task", x).codes
    child = os.fork()
    if not child:
        code = 1
        try:
            device.close()  # the parent's: there are no threads to wait for
            mine = CpuDevice(bundle, threads=2)
            code = int(not (mine.run("task", x).codes == want).all())
            mine.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (device.run("task", x).codes == want).all()
    device.close()
