"""Bundles in memory from random integer graphs: no ONNX, no files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.options import Schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.bundle import Bundle, TaskEntry
from moesaic.spec.execute import Executor
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.joint import JointEntry, joint_name


def make_bundle(
    graphs: dict[str, IntGraph],
    arch: ArchConfig,
    schedule: Schedule | None = None,
    together: Sequence[Joint] = (),
) -> Bundle:
    """Compile integer graphs for ``arch``, by default with the schedule that searches begin at, and
    programs of what is computed ``together``."""
    image = WeightImage(arch)
    codes = {name: compile_task(graph, arch, image, schedule) for name, graph in graphs.items()}
    joint = {}
    for work in together:
        tasks = [graph.task for graph in work.graphs]
        name = joint_name(tasks, work.frames)
        code = codes[name] = compile_task(work, arch, image, schedule)
        joint[name] = JointEntry(tasks, work.frames, code.weight_words, code.activation_words, [])
    return Bundle(
        Path("memory"),
        arch,
        {
            name: TaskEntry(codes[name].weight_words, codes[name].activation_words, [])
            for name in graphs
        },
        graphs,
        {name: code.program for name, code in codes.items()},
        image.tobytes(),
        {name: code.constants for name, code in codes.items()},
        {},
        {},
        joint=joint,
    )


def expected_codes(graph: IntGraph, patches: np.ndarray) -> np.ndarray:
    """What every device must give."""
    return Executor(graph).run(patches)
