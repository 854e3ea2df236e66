"""Contents of the files of a bundle."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import TaskCode
from moesaic.compiler.together import JointProgram
from moesaic.spec import manifest
from moesaic.spec.arch import ArchConfig
from moesaic.spec.bundle import parse_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.image import build_image
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.joint import JointEntry, image_part
from moesaic.spec.schema import pack


def _npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _labels(code: TaskCode) -> list[str]:
    labels: dict[int, str] = {}
    for step in code.steps:
        labels.setdefault(min(step.layer, 255), step.label)
    return [labels.get(index, "") for index in range(max(labels) + 1)]


def bundle_files(
    arch: ArchConfig,
    graphs: dict[str, IntGraph],
    codes: dict[str, TaskCode],
    image: WeightImage,
    samples: dict[str, NDArray[Any]],
    report: dict[str, Any],
    host_parts: dict[str, bytes],
    fronts: dict[str, bytes],
    joint: dict[str, JointProgram] | None = None,
) -> dict[str, bytes]:
    """Contents of all files of a bundle, the manifest included; ``joint`` are programs by name that
    compute several tasks or frames.

    They are parsed as a reader does, so that what nobody could read is never written.

    Raises
    ------
    UserError
        The model is larger than what readers take.
    """
    joint = joint or {}
    entries = {
        name: manifest.TaskEntry(
            code.weight_words,
            code.activation_words,
            _labels(code),
            manifest.host_part_name(name) if name in host_parts else None,
            manifest.front_name(name) if name in fronts else None,
        )
        for name, code in codes.items()
    }
    together = {
        name: JointEntry(
            [graph.task for graph in program.work.graphs],
            program.work.frames,
            program.code.weight_words,
            program.code.activation_words,
            _labels(program.code),
        )
        for name, program in joint.items()
    }
    parts = {
        name: image_part(arch, graphs, together, name, code.program, code.constants)
        for name, code in [
            *codes.items(),
            *((name, program.code) for name, program in joint.items()),
        ]
    }
    arrays: dict[str, NDArray[Any]] = {}
    packed = {name: pack(graph, arrays) for name, graph in graphs.items()}
    files = {
        manifest.IMAGE: build_image(arch, image.tobytes(), parts),
        manifest.GRAPHS: json.dumps(packed).encode(),
        manifest.ARRAYS: _npz(arrays),
        manifest.SAMPLES: _npz(samples),
        **{manifest.host_part_name(name): model for name, model in host_parts.items()},
        **{manifest.front_name(name): model for name, model in fronts.items()},
    }
    files[manifest.MANIFEST] = manifest.write_manifest(arch, entries, together, files, report)
    try:
        parse_bundle(Path("new"), files)
    except UserError as error:
        raise UserError(
            f"no reader would take the bundle of this model ({error.__cause__ or error}):"
            " choose a smaller one"
        ) from error
    return files
