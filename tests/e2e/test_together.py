"""Several tasks, frames, or both, in one program on the RTL, bit for bit, whatever memory does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.task import estimate
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.options import first_schedule
from moesaic.sim.dram import DramConfig
from moesaic.sim.provider import SimulatedAccelerator
from moesaic.spec.arch import ArchConfig
from moesaic.spec.intgraph import IntGraph, IntMoe
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph, random_patches
from tests.compiler.test_codegen import SMALL
from tests.compiler.test_tasks_together import sibling

from .bundles import expected_codes, make_bundle

NANO = PRESETS["nano"]
FRAMES = {
    "experts": Shape(tokens=20, patches=19, head_rows=19, channels=48, moe=(False, True, True)),
    "rotary, taps": Shape(tokens=20, patches=18, head_rows=1, rotary=1.0, moe=(True, False)),
    "no class token": Shape(tokens=16, patches=16, head_rows=16, head_first=0, wide=1.0),
    "from host": Shape(tokens=20, patches=19, head_rows=5, from_host=True, moe=(False, True)),
    "dense": Shape(tokens=19, patches=18, channels=72, moe=(False, False), heads=5),
    "begins anew": Shape(tokens=20, patches=19, channels=72, head_rows=19, renorm=0.5),
}
TASKS = {
    "experts": Shape(tokens=20, patches=19, head_rows=19, channels=48, moe=(False, True, True)),
    "gate first": Shape(tokens=9, patches=9, head_first=0, head_rows=9, moe=(True,)),
    "taps": Shape(tokens=12, patches=11, head_rows=5, moe=(False, True), taps=1.0),
    "rotary": Shape(tokens=14, patches=13, head_rows=13, moe=(False, True), rotary=1.0, wide=0.5),
    "heads alone": Shape(tokens=14, patches=13, head_rows=13, moe=(False, False)),
    "from host": Shape(tokens=14, patches=14, head_rows=5, from_host=True, moe=(False, True)),
}
MEMORIES = (
    DramConfig(),
    DramConfig(gap_probability=0.4, seed=6),
    DramConfig(latency_cycles=300, bandwidth_share=0.3, gap_probability=0.1, seed=7),
)


def run(graphs: list[IntGraph], arch: ArchConfig, frames: int, seed: int) -> None:
    """A program of all, on every memory, between single frames of each."""
    schedule = replace(first_schedule(arch), row_blocks=1 + seed % 3, norms_kept=seed % 2)
    work = Joint(tuple(graphs), frames)
    bundle = make_bundle({g.task: g for g in graphs}, arch, schedule, [work])
    (name,) = bundle.joint
    patches = random_patches(graphs[0], frames + 1, seed)
    names = [graph.task for graph in graphs]
    cycles = []
    for memory in MEMORIES:
        device = SimulatedAccelerator(bundle, dram=memory)
        try:
            results = device.run_tasks(names, patches)
            for graph in graphs:
                result = results[graph.task]
                np.testing.assert_array_equal(result.codes, expected_codes(graph, patches))
                # All frames but the last one together, which is run alone or with other tasks.
                runs = {id(counters) for counters in result.counters}
                assert len(result.counters) == frames + 1 and len(runs) == 2
            cycles.append(device.run_program(name, patches[:frames]).counters["CYCLES"])
        finally:
            device.close()
    if not any(isinstance(layer, IntMoe) for layer in graphs[0].layers):  # who gets tokens is open
        steps = compile_task(work, arch, WeightImage(arch), schedule).steps
        assert abs(estimate(steps, arch, work.macs).cycles / cycles[0] - 1) < 0.03


@pytest.mark.parametrize("frames", [2, 3])
@pytest.mark.parametrize("arch", [NANO, SMALL], ids=lambda arch: arch.name)
@pytest.mark.parametrize("name", FRAMES)
def test_frames_together(name: str, arch: ArchConfig, frames: int) -> None:
    seed = list(FRAMES).index(name)
    run([random_intgraph(FRAMES[name], seed)], arch, frames, seed)


@pytest.mark.parametrize(("count", "frames"), [(2, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("name", TASKS)
def test_tasks_together(name: str, count: int, frames: int) -> None:
    seed = list(TASKS).index(name)
    graph = random_intgraph(TASKS[name], seed)
    siblings = [sibling(graph, TASKS[name], seed + number) for number in range(1, count)]
    run([graph, *siblings], (NANO, SMALL)[seed % 2], frames, seed)
