"""Bundles in memory from random integer graphs: no ONNX, no files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.schedule.options import Schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.bundle import Bundle, TaskEntry
from moesaic.spec.execute import Executor
from moesaic.spec.intgraph import IntGraph


def make_bundle(
    graphs: dict[str, IntGraph], arch: ArchConfig, schedule: Schedule | None = None
) -> Bundle:
    """Compile integer graphs for ``arch``, by default with the schedule that searches begin at."""
    image = WeightImage(arch)
    codes = {name: compile_task(graph, arch, image, schedule) for name, graph in graphs.items()}
    return Bundle(
        Path("memory"),
        arch,
        {name: TaskEntry(c.weight_words, c.activation_words, []) for name, c in codes.items()},
        graphs,
        {name: code.program for name, code in codes.items()},
        image.tobytes(),
        {name: code.constants for name, code in codes.items()},
        {},
        {},
    )


def expected_codes(graph: IntGraph, patches: np.ndarray) -> np.ndarray:
    """What every device must give."""
    return Executor(graph).run(patches)
