"""Writes a bundle directory, beside its place first, so that a half-written one never shows."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import TaskCode
from moesaic.spec import bundle
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.image import ImageTask, build_image
from moesaic.spec.intgraph import IntGraph


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
) -> dict[str, bytes]:
    """Contents of all files of a bundle, the manifest included."""
    entries = {
        name: bundle.TaskEntry(
            code.weight_words,
            code.activation_words,
            _labels(code),
            f"{name}.host.onnx" if name in host_parts else None,
        )
        for name, code in codes.items()
    }
    parts = {
        name: ImageTask.of(graphs[name], code.program, code.constants)
        for name, code in codes.items()
    }
    arrays: dict[str, NDArray[Any]] = {}
    packed = {name: bundle.pack(graph, arrays) for name, graph in graphs.items()}
    files = {
        bundle.IMAGE: build_image(arch, image.tobytes(), parts),
        bundle.GRAPHS: json.dumps(packed).encode(),
        bundle.ARRAYS: _npz(arrays),
        bundle.SAMPLES: _npz(samples),
        **{f"{name}.host.onnx": model for name, model in host_parts.items()},
    }
    manifest: dict[str, Any] = {
        "format": bundle.FORMAT,
        "arch": arch.to_dict(),
        "arch_hash": arch.hash,
        "tasks": {name: dataclasses.asdict(entry) for name, entry in entries.items()},
        "files": {name: bundle.digest(data) for name, data in files.items()},
        "report": report,
    }
    # Through JSON and back, so that the seal is of what a reader will see.
    manifest = json.loads(json.dumps(manifest))
    manifest["seal"] = bundle.digest(json.dumps(manifest, sort_keys=True).encode())
    files["manifest.json"] = json.dumps(manifest, indent=1).encode()
    return files


def write_directory(target: Path, files: dict[str, bytes]) -> None:
    """Write ``files`` into the new directory ``target``, replacing a bundle that is there.

    Raises
    ------
    UserError
        ``target`` exists and is not a bundle, or cannot be written.
    """
    if target.exists() and not (target / "manifest.json").is_file():
        if not target.is_dir() or any(target.iterdir()):
            raise UserError(f"{target} exists and is no bundle; remove it or choose another -o")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            for name, data in files.items():
                (beside / name).write_bytes(data)
            beside.chmod(0o755)
            old = None
            if target.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
                os.rename(target, old / "bundle")
            os.rename(beside, target)
            if old is not None:
                shutil.rmtree(old)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}") from error
