"""Several frames in one program on the RTL, bit for bit, whatever the memory does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.task import estimate
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.options import Schedule, first_schedule
from moesaic.sim.dram import DramConfig
from moesaic.sim.provider import SimulatedAccelerator
from moesaic.spec.arch import ArchConfig
from moesaic.spec.bundle import Bundle
from moesaic.spec.image import ImageTask, build_image
from moesaic.spec.intgraph import IntGraph, IntMoe, IntTokens
from moesaic.spec.presets import PRESETS
from moesaic.spec.scratch import scratch_bytes
from tests.compiler.random_intgraph import Shape, random_intgraph, random_patches
from tests.compiler.test_codegen import SMALL

from .bundles import expected_codes, make_bundle

NANO = PRESETS["nano"]
SHAPES = {
    "experts": Shape(tokens=20, patches=19, head_rows=19, channels=48, moe=(False, True, True)),
    "rotary, taps": Shape(tokens=20, patches=18, head_rows=1, rotary=1.0, moe=(True, False)),
    "no class token": Shape(tokens=16, patches=16, head_rows=16, head_first=0, wide=1.0),
    "from host": Shape(tokens=20, patches=19, head_rows=5, from_host=True, moe=(False, True)),
    "dense": Shape(tokens=19, patches=18, channels=72, moe=(False, False), heads=5),
    "begins anew": Shape(tokens=20, patches=19, channels=72, head_rows=19, renorm=0.5),
}
MEMORIES = (
    DramConfig(),
    DramConfig(gap_probability=0.4, seed=6),
    DramConfig(latency_cycles=300, bandwidth_share=0.3, gap_probability=0.1, seed=7),
)


def together(graph: IntGraph, arch: ArchConfig, schedule: Schedule, frames: int) -> Bundle:
    """A bundle whose device image has a program of several frames in place of that of one."""
    bundle, image = make_bundle({"task": graph}, arch, schedule), WeightImage(arch)
    code = compile_task(Joint((graph,), frames), arch, image, schedule)
    one = ImageTask.of(arch, graph, code.program, code.constants)
    outputs = frames * one.outputs
    rows, inputs = one.input_rows, one.inputs
    rows, inputs = (
        (1, frames * inputs) if isinstance(graph.embed, IntTokens) else (frames * rows, inputs)
    )
    scratch = scratch_bytes(arch, code.program, outputs)
    task = ImageTask(code.program, code.constants, rows, inputs, outputs, scratch)
    bundle.__dict__["image"] = build_image(arch, image.tobytes(), {"task": task})
    return bundle


@pytest.mark.parametrize("frames", [2, 3])
@pytest.mark.parametrize("arch", [NANO, SMALL], ids=lambda arch: arch.name)
@pytest.mark.parametrize("name", SHAPES)
def test_frames_together_are_bit_exact(name: str, arch: ArchConfig, frames: int) -> None:
    seed = list(SHAPES).index(name)
    graph = random_intgraph(SHAPES[name], seed)
    schedule = replace(first_schedule(arch), row_blocks=frames, norms_kept=seed % 2)
    patches = random_patches(graph, frames, seed)
    expected = expected_codes(graph, patches)
    bundle, joined = together(graph, arch, schedule, frames), np.concatenate(list(patches))
    cycles = []
    for memory in MEMORIES:
        device = SimulatedAccelerator(bundle, dram=memory)
        try:
            for _ in range(2):
                result = device.driver.run("task", joined)
                np.testing.assert_array_equal(result.codes.reshape(expected.shape), expected)
        finally:
            device.close()
        cycles.append(result.counters["CYCLES"])
    if not any(isinstance(layer, IntMoe) for layer in graph.layers):  # who gets tokens is not known
        steps = compile_task(Joint((graph,), frames), arch, WeightImage(arch), schedule).steps
        assert abs(estimate(steps, arch, frames * graph.macs).cycles / cycles[0] - 1) < 0.03
