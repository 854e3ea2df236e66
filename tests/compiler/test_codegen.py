"""Generated code computes what the integer graph says, under any order the tokens allow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import TaskCode, compile_task
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.tuning import choose_schedule
from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.execute import Executor
from moesaic.spec.intgraph import IntGraph, IntLayer, IntMlp, IntMoe
from moesaic.spec.presets import PRESETS
from tests.functional import FunctionalModel
from tests.hazards import check_order

from .random_intgraph import Shape, in_few_bits, random_intgraph, random_linear, random_patches

SMALL = ArchConfig(
    name="small",
    depth=8,
    width=32,
    lanes=4,
    accumulator_rows=64,
    activation_bytes=96 << 10,
    activation_banks=3,
    residual_bytes=20 << 10,
    weight_ports=2,
    weight_port_bytes=8,
    ring_read_bytes=32,
    ring_bytes=4 << 10,
    data_port_bytes=8,
    max_tokens=64,
    max_experts=16,
    queue_depth=8,
)
SHAPES = {
    "default": Shape(),
    "dense": Shape(moe=(False, False)),
    "all_moe_top4": Shape(moe=(True, True), experts=12, top_k=4, renormalise=True),
    "one_head_no_class_token": Shape(
        heads=1, head_dim=40, value_dim=40, channels=40, tokens=8, head_first=0
    ),
    "one_token": Shape(tokens=1, patches=1, head_rows=1, head_first=0, top_k=1),
    "wide_heads": Shape(
        tokens=60, patches=59, heads=5, head_dim=9, value_dim=17, channels=72, head_rows=59
    ),
    "three_experts": Shape(experts=3, top_k=3, moe=(True,)),
    "all_16_bits": Shape(wide=1.0, moe=(True, False), experts=4),
    "begins_anew": Shape(renorm=1.0),
    "begins_anew_now_and_then": Shape(
        tokens=20, patches=19, channels=72, head_rows=19, renorm=0.5, moe=(True, False, True)
    ),
    "all_8_bits": Shape(wide=0.0, moe=(True, False), experts=4),
    "rotary": Shape(rotary=1.0, moe=(False, True, False), wide=0.5),
    "rotary_in_blocks": Shape(
        tokens=80, patches=79, head_rows=8, rotary=1.0, moe=(False, False), wide=0.5, taps=0.0
    ),
    "rotary_wide_heads": Shape(
        tokens=30,
        patches=29,
        heads=5,
        head_dim=18,
        value_dim=9,
        channels=72,
        head_rows=29,
        rotary=1.0,
        moe=(False, False),
    ),
    "parallel": Shape(moe=(True, False), parallel=(1, 3)),
    "from_host": Shape(tokens=9, channels=27, from_host=True),
    "from_host_without_tables": Shape(moe=(), from_host=True),
    "from_host_begins_anew": Shape(tokens=60, channels=72, from_host=True, renorm=0.6),
    "four_on_one_norm": Shape(moe=(False, True), parallel=(1, 2, 3), experts=4, wide=0.5),
    "taps": Shape(taps=0.6),
    "taps_everywhere": Shape(taps=1.0, tokens=20, patches=19, head_rows=19, moe=(True,), wide=0.5),
    "taps_begin_anew": Shape(taps=0.6, renorm=1.0, channels=40, moe=(True,)),
    "lists": Shape(tokens=30, patches=29, head_rows=29, lists=1.0, moe=(False, True, False, False)),
    "lists_begin_anew": Shape(lists=1.0, renorm=0.5, moe=(False, False), rotary=0.5, wide=0.5),
    "taps_between_parallel": Shape(taps=1.0, moe=(True, False), parallel=(1, 3)),
}


def run_both(
    graph: IntGraph, arch: ArchConfig, code: TaskCode, image: bytes, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Output codes of (functional model, integer graph) for one random frame."""
    patches = random_patches(graph, 1, seed)
    model = FunctionalModel(arch, image, code.constants, layout.pack_codes(arch, patches[0]), seed)
    raw = model.run(code.program)
    shapes = [(head.rows, head.linear.outputs) for head in graph.heads]
    return layout.unpack_outputs(arch, raw, shapes), Executor(graph).run(patches)[0]


@pytest.mark.parametrize("arch", [SMALL, PRESETS["nano"], PRESETS["zcu102"]], ids=lambda a: a.name)
@pytest.mark.parametrize("shape", SHAPES)
def test_program_equals_integer_graph(arch: ArchConfig, shape: str) -> None:
    graph = random_intgraph(SHAPES[shape], seed=len(shape))
    image = WeightImage(arch)
    code = compile_task(graph, arch, image)
    for seed in range(3):
        got, expected = run_both(graph, arch, code, image.tobytes(), seed)
        np.testing.assert_array_equal(got, expected)
        assert len(np.unique(expected)) > min(20, expected.size // 2)


@pytest.mark.parametrize("arch", [SMALL, PRESETS["zcu102"]], ids=lambda a: a.name)
@pytest.mark.parametrize("shape", ["all_moe_top4", "begins_anew_now_and_then", "lists", "rotary"])
def test_weights_of_four_bits(arch: ArchConfig, shape: str) -> None:
    """In some layers, and in all: fewer words of the ring for the same codes."""
    able, unable = (replace(arch, four_bit_weights=few) for few in (True, False))
    whole = random_intgraph(SHAPES[shape], seed=3)
    for share in (0.5, 1.0):
        graph = in_few_bits(whole, np.random.default_rng(1), share)
        image, plain = WeightImage(able), WeightImage(able)
        code = compile_task(graph, able, image)
        got, expected = run_both(graph, able, code, image.tobytes(), 0)
        np.testing.assert_array_equal(got, expected)
        assert len(np.unique(expected)) > min(20, expected.size // 2)
        compile_task(whole, able, plain)
        assert image.words < plain.words
    with pytest.raises(UserError, match="has weights of 4 bits, and the target takes 8 only"):
        compile_task(graph, unable, WeightImage(unable))


@pytest.mark.parametrize("arch", [SMALL, PRESETS["nano"], PRESETS["zcu102"]], ids=lambda a: a.name)
def test_corrections_come_before_the_logits(arch: ArchConfig) -> None:
    """They are a row of logits in front of the tokens', and change what is chosen."""
    graph = random_intgraph(Shape(experts=6, top_k=2, moe=(True, True)), seed=5)

    def corrected(layer: IntLayer, codes: NDArray[np.int32] | None) -> IntLayer:
        if not isinstance(layer, IntMoe):
            return layer
        return replace(layer, sigmoid=True, corrections=codes)

    def with_codes(codes: NDArray[np.int32] | None) -> IntGraph:
        return replace(graph, layers=tuple(corrected(layer, codes) for layer in graph.layers))

    results = []
    for codes in (None, np.array([0, -70_000, 30_000, 5, -1, 80_000], np.int32)):
        made, image = with_codes(codes), WeightImage(arch)
        code = compile_task(made, arch, image)
        drains = [s for s in code.steps if s.fields.get("kind") == isa.Drain.LOGITS]
        rows = [s.fields["rows"] for s in drains]
        assert rows == [*([] if codes is None else [1]), graph.tokens] * 2
        check_order(arch, code.program, [1])
        got, expected = run_both(made, arch, code, image.tobytes(), 1)
        np.testing.assert_array_equal(got, expected)
        results.append(expected)
    assert (results[0] != results[1]).any()


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("experts", [33, 40, 64])
def test_experts_of_several_column_tiles(width: int, experts: int) -> None:
    """Their logits take up to 8 tiles, each with a parameter block, in one accumulator bank."""
    arch = replace(
        PRESETS["nano"], name="many", depth=width, width=width, lanes=8, data_port_bytes=8,
        max_experts=64, max_tokens=32,
    )  # fmt: skip
    assert arch.parameter_blocks == {8: 8, 16: 4}[width]
    graph = random_intgraph(Shape(experts=experts, top_k=3, moe=(True,)), seed=experts)
    image = WeightImage(arch)
    code = compile_task(graph, arch, image)
    logits = [s for s in code.steps if s.fields.get("kind") == isa.Drain.LOGITS]
    assert {step.fields["n_tiles"] for step in logits} == {-(-experts // width)}
    got, expected = run_both(graph, arch, code, image.tobytes(), 1)
    np.testing.assert_array_equal(got, expected)


def test_experts_of_different_widths() -> None:
    """Their hidden activations share buffers: those of the widest one."""
    graph = random_intgraph(Shape(experts=6, top_k=3, moe=(True, True)), seed=2)
    rng = np.random.default_rng(2)

    def widened(layer: IntMoe) -> IntMoe:
        experts = tuple(
            IntMlp(
                random_linear(rng, 9 + 40 * n, graph.channels, 8000),
                expert.activation,
                expert.scale,
                random_linear(rng, graph.channels, 9 + 40 * n, 2e5),
                expert.offset,
                (9 + 40 * n) * (expert.wide > 0),
            )
            for n, expert in enumerate(layer.experts)
        )
        return replace(layer, experts=experts)

    layers = tuple(widened(x) if isinstance(x, IntMoe) else x for x in graph.layers)
    graph = replace(graph, layers=layers)
    image = WeightImage(SMALL)
    code = compile_task(graph, SMALL, image)
    for seed in range(3):
        check_order(SMALL, code.program, [seed])
        got, expected = run_both(graph, SMALL, code, image.tobytes(), seed)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("arch", [SMALL, *PRESETS.values()], ids=lambda a: a.name)
@pytest.mark.parametrize("shape", SHAPES)
def test_order_of_units_changes_nothing(arch: ArchConfig, shape: str) -> None:
    graph = random_intgraph(SHAPES[shape], values=False)
    for queue_depth in (1, arch.queue_depth):
        target = replace(arch, queue_depth=queue_depth)
        code = compile_task(graph, target, ShapeImage(target))
        check_order(target, code.program, range(4), code.steps)


@pytest.mark.parametrize(
    ("shape", "needle"),
    [
        (Shape(outputs=0), "the outputs of a linear layer in the head of output y"),
        (Shape(patch_inputs=0), "the inputs of a linear layer in the embedding"),
        (Shape(hidden=0), "the outputs of a linear layer in layer mlp0"),
        (Shape(head_rows=0), "the rows of output y"),
        (Shape(tokens=1, patches=0, head_rows=1, head_first=0), "its patches"),
        (Shape(heads=0), "the outputs of a linear layer in layer attention0"),
        (Shape(top_k=0), "the experts that layer moe1 chooses"),
        (Shape(experts=0, top_k=0), "the experts of layer moe1"),
    ],
)
def test_sizes_of_zero_are_refused(shape: Shape, needle: str) -> None:
    graph = random_intgraph(shape, values=False)
    for use in (compile_task, lambda g, arch, image: choose_schedule(g, arch)):
        with pytest.raises(UserError, match=f"nothing to compute: {needle} must be 1") as error:
            use(graph, SMALL, ShapeImage(SMALL))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "needle"),
    [
        (Shape(outputs=1024 * 32 + 1, taps=0.0),
         "layer head, MATMUL field groups must be below 1024"),
        (Shape(patch_inputs=8 * 1024, tokens=1, patches=1, head_rows=1, head_first=0),
         "layer embed, MATMUL field k_tiles must be below 1024"),
        (Shape(channels=8192, tokens=1, patches=1, head_rows=1, head_first=0),
         "8192 channels exceed the 8191 of a normalisation"),
        (Shape(experts=16, top_k=16), "moe1 chooses 16 experts for a token, the router at most 15"),
        (Shape(experts=3, top_k=4), "moe1 chooses 4 experts for a token, the router at most 3"),
    ],
)  # fmt: skip
def test_field_of_an_instruction_is_too_small(shape: Shape, needle: str) -> None:
    graph = random_intgraph(shape, values=False)
    for use in (compile_task, lambda g, arch, image: choose_schedule(g, arch)):
        with pytest.raises(UserError, match="does not fit target small") as error:
            use(graph, SMALL, ShapeImage(SMALL))
        assert needle in str(error.value)


def test_program_with_a_missing_token_is_caught() -> None:
    """The random order of units finds a token left out."""
    graph = random_intgraph(Shape(), seed=1)
    image = WeightImage(SMALL)
    code = compile_task(graph, SMALL, image)
    size = isa.INSTRUCTION_BYTES
    parts = [code.program[i : i + size] for i in range(0, len(code.program), size)]
    wrong = 0
    for index, raw in enumerate(parts):
        instruction = isa.decode(raw)
        if instruction.opcode is isa.Opcode.MATMUL and instruction.values["wait"]:
            values = {k: v for k, v in instruction.values.items() if k not in ("opcode", "wait")}
            damaged = [*parts]
            damaged[index] = isa.encode(instruction.opcode, **values)
            code.program = b"".join(damaged)
            try:
                got, expected = run_both(graph, SMALL, code, image.tobytes(), 5)
            except (AssertionError, IndexError, ValueError):
                wrong += 1
                continue
            wrong += not np.array_equal(got, expected)
    assert wrong > 0


def test_equal_weights_are_stored_once() -> None:
    image = WeightImage(SMALL)
    compile_task(random_intgraph(Shape(), seed=1), SMALL, image)
    words = image.words
    compile_task(random_intgraph(Shape(), seed=1, task="again"), SMALL, image)
    assert image.words == words


@pytest.mark.parametrize(
    ("shape", "needle"),
    [
        (Shape(tokens=65, patches=64, head_rows=65, head_first=0), "a head of it reads 65 rows"),
        (Shape(tokens=65, patches=64, moe=(True,)), "an expert for all 65 tokens"),
        (Shape(experts=17, moe=(True,)), "moe0 has 17 experts, the router holds 16"),
        (Shape(tokens=60, patches=59, channels=800), "residual stream needs"),
        (Shape(tokens=60, patches=59, patch_inputs=6000), "scratchpad has"),
    ],
)
def test_model_too_large_is_refused(shape: Shape, needle: str) -> None:
    with pytest.raises(UserError, match="does not fit target small") as error:
        compile_task(random_intgraph(shape), SMALL, WeightImage(SMALL))
    assert needle in str(error.value)
