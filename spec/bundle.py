"""The bundle: a directory with everything needed to run a compiled model anywhere.

    manifest.json   format version, architecture, hashes of the other files, tasks
    device.bin      weights, programs and constants as the device's memory takes them: `spec.image`
    TASK.host.onnx  of a partitioned task: what the host computes from the accelerator's output
    graphs.json     the integer graphs; arrays by name
    graphs.npz      their arrays, equal arrays stored once
    samples.npz     a few inputs (``TASK.input``), ONNX Runtime's float outputs (``TASK.float``)
                    and the integer output codes expected of every device (``TASK.codes``)

This module needs numpy only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.spec import image, intgraph
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.hostpart import HostPart

FORMAT = 3
IMAGE, GRAPHS, ARRAYS, SAMPLES = (
    "device.bin",
    "graphs.json",
    "graphs.npz",
    "samples.npz",
)
_TYPES = {
    kind.__name__: kind
    for kind in vars(intgraph).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}


@dataclass(frozen=True)
class TaskEntry:
    """What the manifest says of one task."""

    weight_words: int
    """Ring words of a frame that hits every expert."""
    activation_words: int
    labels: list[str]
    """Layer names by the ``layer`` field of instructions."""
    host_part: str | None = None
    """File name of what the host computes behind the accelerator."""


@dataclass(frozen=True)
class Bundle:
    """A validated bundle in memory."""

    path: Path
    arch: ArchConfig
    tasks: dict[str, TaskEntry]
    graphs: dict[str, intgraph.IntGraph]
    programs: dict[str, bytes]
    """Program of each task."""
    weights: bytes
    """The weight image: ring words in stream order, not split over the ports."""
    constants: dict[str, bytes]
    """Contents of each task's CONSTANT window."""
    samples: dict[str, NDArray[Any]]
    report: dict[str, Any]
    """What the compiler measured: calibration, sizes, notes."""
    host_parts: dict[str, bytes] = field(default_factory=dict)
    """ONNX models of the partitioned tasks."""

    def host_part(self, task: str) -> HostPart | None:
        """Return what the host computes behind the accelerator, if there is anything."""
        if task not in self.host_parts:
            return None
        return HostPart(self.host_parts[task], f"the host's part of task {task} of {self.path}")

    def outputs(self, task: str) -> dict[str, tuple[int, ...]]:
        """Return the outputs that a user of a task sees: name to shape, the first axis a frame."""
        graph = self.graphs[task]
        if task not in self.host_parts:
            return {graph.output_name: tuple(graph.output_shape)}
        shapes = self.report["tasks"][task]["host"]["outputs"]
        return {name: tuple(shape) for name, shape in shapes.items()}

    @cached_property
    def image(self) -> bytes:
        """The device image, see :mod:`moesaic.spec.image`."""
        tasks = {
            name: image.ImageTask.of(graph, self.programs[name], self.constants[name])
            for name, graph in self.graphs.items()
        }
        return image.build_image(self.arch, self.weights, tasks)

    def task(self, name: str | None) -> str:
        """Return ``name`` if it is a task; without a name, the only one.

        Raises
        ------
        UserError
            There is no such task, or several and none was named.
        """
        known = ", ".join(sorted(self.tasks))
        if name is None:
            if len(self.tasks) == 1:
                return next(iter(self.tasks))
            raise UserError(f"{self.path} holds several tasks; name one with --task: {known}")
        if name not in self.tasks:
            raise UserError(f"{self.path} has no task {name!r}; its tasks are: {known}")
        return name


def pack(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Turn graphs into JSON values; arrays go to ``arrays`` under the hash of their contents."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: pack(getattr(value, f.name), arrays) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, np.ndarray):
        plain = np.ascontiguousarray(value)
        tag = f"{plain.dtype.str}{plain.shape}".encode()
        name = hashlib.sha256(tag + plain.tobytes()).hexdigest()[:24]
        arrays[name] = plain
        return {"array": name}
    if isinstance(value, (tuple, list)):
        return [pack(item, arrays) for item in value]
    return value


def unpack(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Inverse of :func:`pack`; lists become tuples."""
    if isinstance(value, dict) and "array" in value:
        return arrays[value["array"]]
    if isinstance(value, dict):
        fields = {k: unpack(v, arrays) for k, v in value.items() if k != "type"}
        return _TYPES[value["type"]](**fields)
    if isinstance(value, list):
        return tuple(unpack(item, arrays) for item in value)
    return value


def digest(data: bytes) -> str:
    """Content hash as the manifest holds it."""
    return hashlib.sha256(data).hexdigest()


def _read(path: Path, hashes: dict[str, str], name: str) -> bytes:
    try:
        data = (path / name).read_bytes()
    except OSError as error:
        raise UserError(f"bundle {path} is incomplete: {name} cannot be read") from error
    if digest(data) != hashes.get(name):
        raise UserError(f"bundle {path} is corrupt: {name} does not match its hash; compile again")
    return data


def _arrays(path: Path, name: str) -> dict[str, NDArray[Any]]:
    with np.load(path / name, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def load_bundle(location: str | Path) -> Bundle:
    """Read and validate a bundle directory.

    Raises
    ------
    UserError
        It is no bundle, of another format version, incomplete, or a hash does not match.
    """
    path = Path(location)
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is no bundle: manifest.json cannot be read; make one with `moesaic compile`"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise UserError(
            f"bundle {path} has format {found!r}, this version reads {FORMAT}; compile it again"
        )
    try:
        sealed = dict(manifest)
        seal = sealed.pop("seal")
        if seal != digest(json.dumps(sealed, sort_keys=True).encode()):
            raise UserError(f"bundle {path} is corrupt: manifest.json does not match its hash")
        arch = ArchConfig.from_dict(manifest["arch"])
        if arch.hash != manifest["arch_hash"]:
            raise UserError(
                f"bundle {path} was made for another version of the gateware; compile it again"
            )
        tasks = {name: TaskEntry(**entry) for name, entry in manifest["tasks"].items()}
        hashes = manifest["files"]
        files = {name: _read(path, hashes, name) for name in hashes}
        arrays = _arrays(path, ARRAYS)
        weights, parts = image.read_image(arch, files[IMAGE])
        graphs = {name: unpack(value, arrays) for name, value in json.loads(files[GRAPHS]).items()}
        return Bundle(
            path,
            arch,
            tasks,
            graphs,
            {name: parts[name].program for name in tasks},
            weights,
            {name: parts[name].constants for name in tasks},
            _arrays(path, SAMPLES),
            manifest["report"],
            {name: files[entry.host_part] for name, entry in tasks.items() if entry.host_part},
        )
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        raise UserError(f"bundle {path} is damaged ({error!r}); compile it again") from error
