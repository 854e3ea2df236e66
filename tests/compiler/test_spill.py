"""Streams that do not fit the residual memory, in blocks of rows that lie in scratch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.task import estimate
from moesaic.compiler.schedule import spill
from moesaic.compiler.schedule.options import first_schedule
from moesaic.compiler.schedule.steps import Access, Resource
from moesaic.spec import isa, scratch
from moesaic.spec.arch import ArchConfig
from moesaic.spec.constants import angle_words
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS
from tests.hazards import Hazard, check_order

from .random_intgraph import Shape, random_intgraph
from .test_codegen import SMALL, run_both

TWO = replace(SMALL, name="two", lanes=8, output_ports=2)
DENSE = Shape(tokens=40, patches=39, head_rows=39, channels=48, moe=(False, False), taps=0.0)
SHAPES = {
    "dense": DENSE,
    "parallel": replace(DENSE, moe=(False,) * 3, parallel=(1, 3)),
    "no class token": replace(DENSE, patches=40, head_rows=40, head_first=0),
    "few head rows": replace(DENSE, head_rows=3, head_first=20),
    "wide": replace(DENSE, wide=1.0),
}


@pytest.mark.parametrize("residual_bytes", [2048, 512, 256])  # of 21, 5, and 2 rows
@pytest.mark.parametrize("arch", [SMALL, TWO], ids=lambda arch: arch.name)
@pytest.mark.parametrize("name", SHAPES)
def test_spilled_streams_give_the_same(name: str, arch: ArchConfig, residual_bytes: int) -> None:
    shape = SHAPES[name]
    arch = replace(arch, residual_bytes=residual_bytes)
    graph, image = random_intgraph(shape, seed=len(name)), WeightImage(arch)
    for row_blocks in (1,) if residual_bytes > 512 else (3,):
        schedule = replace(first_schedule(arch), row_blocks=row_blocks)
        code = compile_task(graph, arch, image, schedule)
        for seed in range(2):
            got, expected = run_both(graph, arch, code, image.tobytes(), seed)
            np.testing.assert_array_equal(got, expected)
        check_order(arch, code.program, range(2))
        outputs = [(head.rows, head.linear.outputs) for head in graph.heads]
        behind = scratch.scratch_bytes(arch, code.program, outputs)
        row_bytes = 2 * arch.lanes * -(-graph.channels // arch.lanes)
        start = scratch.first_byte(arch, outputs)
        assert behind == start - scratch.port_bytes(arch, outputs) + 40 * row_bytes
        result = estimate(code.steps, arch, graph.macs)
        assert result.cycles > result.roofline_cycles


@pytest.mark.parametrize("arch", [SMALL, TWO], ids=lambda arch: arch.name)
@pytest.mark.parametrize("from_host", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_angles_stay_in_the_memory(seed: int, from_host: bool, arch: ArchConfig) -> None:
    """Blocks of rows take turns in what the angles of rotations leave of it."""
    shape = replace(DENSE, rotary=1.0, from_host=from_host, head_rows=40, head_first=0, wide=0.5)
    graph = random_intgraph(shape, seed)
    row_words = -(-graph.channels // arch.lanes)
    least = sum(angle_words(graph, arch).values()) + 2 * row_words
    words = 1 << (least - 1).bit_length()
    assert words < least + 38 * row_words
    enough = replace(arch, residual_bytes=2 * arch.lanes * words)
    image = WeightImage(enough)
    code = compile_task(graph, enough, image)
    assert any(step.fields.get("single") for step in code.steps)
    got, expected = run_both(graph, enough, code, image.tobytes(), seed)
    np.testing.assert_array_equal(got, expected)
    check_order(enough, code.program, range(2))
    with pytest.raises(UserError, match="two rows .* and the angles of its rotary embeddings need"):
        less = replace(arch, residual_bytes=arch.lanes * words)
        compile_task(graph, less, WeightImage(less))


def test_a_stream_that_fits_is_not_spilled() -> None:
    arch = replace(SMALL, residual_bytes=4096)
    graph = random_intgraph(DENSE, seed=1)
    steps = compile_task(graph, arch, WeightImage(arch)).steps
    assert not any(step.fields.get("single") or step.fields.get("store") for step in steps)
    stores = [s for s in compile_task(graph, PRESETS["nano"], WeightImage(PRESETS["nano"])).steps]
    assert sum(step.opcode is isa.Opcode.STORE for step in stores) == 1


def test_what_needs_the_whole_stream_is_refused() -> None:
    arch = replace(SMALL, residual_bytes=2048)
    for other in ({"moe": (False, True)}, {"renorm": 1.0}, {"taps": 1.0}):
        shape = replace(DENSE, **other)
        with pytest.raises(UserError, match="its residual stream needs"):
            compile_task(random_intgraph(shape, seed=1), arch, WeightImage(arch))
    with pytest.raises(UserError, match="two rows of its residual stream need"):
        one = replace(SMALL, residual_bytes=128)
        compile_task(random_intgraph(DENSE, seed=1), one, WeightImage(one))


@pytest.mark.parametrize("left_out", ["reads_scratch", "writes_scratch"])
def test_a_load_that_does_not_wait_for_its_rows_is_found(
    left_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A STORE's rows are there with its response only: its NORM has ended long before."""
    arch = replace(SMALL, residual_bytes=2048)
    graph = random_intgraph(DENSE, values=False)
    nothing = Access(Resource.SCRATCH, False, rows=range(0))
    check_order(arch, compile_task(graph, arch, ShapeImage(arch)).program, range(16))
    monkeypatch.setattr(spill, left_out, lambda rows: nothing)
    with pytest.raises(Hazard, match=r"\(LOAD\) reads word"):
        check_order(arch, compile_task(graph, arch, ShapeImage(arch)).program, range(16))
