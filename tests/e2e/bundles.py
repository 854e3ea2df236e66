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
from moesaic.spec.registers import WINDOW_ALIGNMENT


def make_bundle(
    graphs: dict[str, IntGraph], arch: ArchConfig, schedule: Schedule | None = None
) -> Bundle:
    """Compile integer graphs for ``arch``, by default with the schedule that searches begin at."""
    image, constants = WeightImage(arch), bytearray()
    entries, programs = {}, {}
    for name, graph in graphs.items():
        code = compile_task(graph, arch, image, schedule)
        constants += bytes(-len(constants) % WINDOW_ALIGNMENT)
        entries[name] = TaskEntry(
            f"{name}.program",
            len(constants),
            len(code.constants),
            code.weight_words,
            code.activation_words,
            [],
        )
        constants += code.constants
        programs[name] = code.program
    return Bundle(
        Path("memory"),
        arch,
        entries,
        graphs,
        programs,
        image.tobytes(),
        bytes(constants),
        {},
        {},
    )


def expected_codes(graph: IntGraph, patches: np.ndarray) -> np.ndarray:
    """What every device must give."""
    return Executor(graph).run(patches)
