"""Several frames of a task in one program: the results of each are those of it alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import TaskCode, compile_task
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.options import first_schedule
from moesaic.spec import layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.execute import Executor
from moesaic.spec.intgraph import InputCodes, IntGraph
from moesaic.spec.lists import listed
from moesaic.spec.presets import PRESETS
from tests.functional import FunctionalModel
from tests.hazards import check_order

from .random_intgraph import random_intgraph, random_patches
from .test_codegen import SHAPES as NETWORKS
from .test_codegen import SMALL
from .test_spill import SHAPES as SPILLED

ROOMY = replace(
    SMALL,
    activation_bytes=384 << 10,
    residual_bytes=256 << 10,
    accumulator_rows=256,
    max_tokens=512,
)
GRAPHS = {name: random_intgraph(shape, seed=len(name)) for name, shape in NETWORKS.items()}
TOGETHER = [name for name, graph in GRAPHS.items() if not listed(graph)]


def run(
    graph: IntGraph, arch: ArchConfig, code: TaskCode, image: bytes, patches: InputCodes
) -> NDArray[np.int16]:
    """Output codes [frames, codes] of the functional model."""
    inputs = b"".join(layout.pack_codes(arch, frame) for frame in patches)
    raw = FunctionalModel(arch, image, code.constants, inputs, len(patches)).run(code.program)
    shapes = [(head.rows, head.linear.outputs) for head in graph.heads]
    codes = layout.unpack_outputs(arch, raw, shapes * len(patches))
    return codes.reshape(len(patches), graph.codes)


@pytest.mark.parametrize("frames", [2, 3])
@pytest.mark.parametrize("name", TOGETHER)
def test_frames_together_are_each_as_alone(name: str, frames: int) -> None:
    graph, image = GRAPHS[name], WeightImage(ROOMY)
    schedule = replace(first_schedule(ROOMY), row_blocks=frames, norms_kept=frames % 2)
    code = compile_task(Joint((graph,), frames), ROOMY, image, schedule)
    patches = random_patches(graph, frames, seed=frames)
    got = run(graph, ROOMY, code, image.tobytes(), patches)
    np.testing.assert_array_equal(got, Executor(graph).run(patches))
    check_order(ROOMY, code.program, range(1), code.steps)


@pytest.mark.parametrize("head_groups", [1, 2])
@pytest.mark.parametrize("name", SPILLED)
def test_frames_that_do_not_fit_take_turns(name: str, head_groups: int) -> None:
    arch = replace(SMALL, residual_bytes=2048)
    graph, image = random_intgraph(SPILLED[name], seed=len(name)), WeightImage(arch)
    schedule = replace(first_schedule(arch), norms_kept=0, head_groups=head_groups)
    code = compile_task(Joint((graph,), 2), arch, image, schedule)
    patches = random_patches(graph, 2, seed=3)
    got = run(graph, arch, code, image.tobytes(), patches)
    np.testing.assert_array_equal(got, Executor(graph).run(patches))
    check_order(arch, code.program, range(1))


def test_frames_of_lists_are_refused() -> None:
    name = next(name for name in GRAPHS if name not in TOGETHER)
    with pytest.raises(UserError, match="some of its tokens can't be computed together"):
        compile_task(Joint((GRAPHS[name],), 2), PRESETS["nano"], ShapeImage(PRESETS["nano"]))


def test_too_many_frames_are_refused_by_their_number() -> None:
    nano, graph = PRESETS["nano"], GRAPHS["default"]
    with pytest.raises(UserError, match="does not fit target nano: of 32 frames together, its"):
        compile_task(Joint((graph,), 32), nano, ShapeImage(nano))
