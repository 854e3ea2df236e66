"""The manifest of a bundle: what else is in it, and what the compiler measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from moesaic.spec.arch import LATER, ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.image import MAX_TASKS, NAME_BYTES
from moesaic.spec.intgraph import MAX_HEADS, Count, IntGraph, IntMoe, Shape, Total
from moesaic.spec.joint import JointEntry, check_joint
from moesaic.spec.schema import Items, Range, Reader, SchemaError, Unbounded, load_json

FORMAT = 14
MANIFEST = "manifest.json"
IMAGE, GRAPHS, ARRAYS, SAMPLES = (
    "device.bin",
    "graphs.json",
    "graphs.npz",
    "samples.npz",
)
MAX_JSON_BYTES = 16 << 20
"""Of the manifest, and of the graphs."""
MAX_FILE_BYTES = 1 << 32
MAX_REPORTED_NODES = 1 << 16


@dataclass(frozen=True)
class FileEntry:
    """One of the other files."""

    size_bytes: Annotated[int, Range(0, MAX_FILE_BYTES)]
    sha256: str
    """Of its contents, in hexadecimal."""

    @staticmethod
    def of(data: bytes) -> FileEntry:
        """The entry of a file with these contents."""
        return FileEntry(len(data), digest(data))


@dataclass(frozen=True)
class TaskEntry:
    """What the manifest says of one task."""

    weight_words: int
    """Ring words of a frame that hits every expert."""
    activation_words: int
    labels: Annotated[list[str], Items(0, 256)]
    """Layer names by the ``layer`` field of instructions."""
    host_part: str | None = None
    """File name of what the host computes behind the accelerator."""
    front: str | None = None
    """File name of what the host computes in front of it."""


@dataclass(frozen=True)
class HostNodeReport:
    """A node on the host, and why it is there."""

    name: str
    operator: str
    reason: str


@dataclass(frozen=True)
class CutReport:
    """A tensor at which the host takes over."""

    tensor: str
    shape: Shape
    sqnr_db: Annotated[float, Unbounded()]


@dataclass(frozen=True)
class HostReport:
    """The host's part of a task."""

    cuts: Annotated[list[CutReport], Items(1, MAX_HEADS)]
    outputs: Annotated[dict[str, Shape], Items(1, MAX_HEADS)]
    """All that a user of the task gets, the accelerator's own among them, in the file's order."""
    accelerator_nodes: int
    nodes: Annotated[list[HostNodeReport], Items(0, MAX_REPORTED_NODES)]
    macs: int | None


@dataclass(frozen=True)
class FrontReport:
    """What the host computes in front of the accelerator."""

    cut: CutReport
    inputs: Annotated[dict[str, Shape], Items(1, 1)]
    why: str
    """The sentence that refuses to take it."""
    accelerator_nodes: int
    nodes: Annotated[list[HostNodeReport], Items(0, MAX_REPORTED_NODES)]
    macs: int | None


@dataclass(frozen=True)
class TaskReport:
    """What is used of a task's report; it has more for people to read."""

    sqnr_db: Annotated[float, Unbounded()]
    """Of the worst output."""
    outputs_db: Annotated[dict[str, Annotated[float, Unbounded()]], Items(1, MAX_HEADS)]
    """Of each."""
    macs: Total
    cycles: Total
    """Of a frame, estimated with ``routing``."""
    layers: int
    tokens: Count
    instructions: Count
    weight_stream_bytes: int
    notes: list[str]
    routing: dict[str, list[int]]
    """Layer to the tokens of each expert, in one frame."""
    schedule: dict[str, int]
    host: HostReport | None
    front: FrontReport | None


@dataclass(frozen=True)
class JointReport:
    """What is used of the report of a program of several tasks or frames."""

    cycles: Total
    """Of all of them together, estimated."""


Tasks = Annotated[dict[str, TaskEntry], Items(1, MAX_TASKS)]


@dataclass(frozen=True)
class Manifest:
    """A manifest whose fields are checked."""

    arch: ArchConfig
    tasks: Tasks
    joint: dict[str, JointEntry]
    """Programs of several tasks or frames, by name."""
    files: dict[str, FileEntry]
    report: dict[str, Any]
    reports: dict[str, TaskReport]
    """The report's tasks; those that a program has put together need not have one."""


def digest(data: bytes) -> str:
    """Content hash as the manifest holds it."""
    return hashlib.sha256(data).hexdigest()


def host_part_name(task: str) -> str:
    """File name of what the host computes of a task."""
    return f"{task}.host.onnx"


def front_name(task: str) -> str:
    """File name of what the host computes in front of the accelerator."""
    return f"{task}.front.onnx"


def write_manifest(
    arch: ArchConfig,
    tasks: Mapping[str, TaskEntry],
    joint: Mapping[str, JointEntry],
    files: Mapping[str, bytes],
    report: Mapping[str, Any],
) -> bytes:
    """Contents of the manifest of ``files``, sealed."""
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "arch": arch.to_dict(),
        "arch_hash": arch.hash,
        "tasks": {name: dataclasses.asdict(entry) for name, entry in tasks.items()},
        "joint": {name: dataclasses.asdict(entry) for name, entry in joint.items()},
        "files": {name: dataclasses.asdict(FileEntry.of(data)) for name, data in files.items()},
        "report": report,
    }
    # Through JSON and back, so that the seal is of what a reader will see.
    manifest = json.loads(json.dumps(manifest))
    manifest["seal"] = seal(manifest)
    return json.dumps(manifest, indent=1).encode()


def seal(manifest: Mapping[str, Any]) -> str:
    """Hash of all of a manifest but the seal itself."""
    unsealed = {name: value for name, value in manifest.items() if name != "seal"}
    return digest(json.dumps(unsealed, sort_keys=True).encode())


def read_manifest(data: bytes, bundle: str) -> Manifest:
    """Parse and check the contents of a manifest; ``bundle`` is how messages name the bundle.

    Raises
    ------
    UserError
        It is no manifest, of another format or architecture, or its seal is broken.
    SchemaError
        A field breaks its rule.
    """
    try:
        value = load_json(data)
        sealed = isinstance(value, dict) and value.get("format") == FORMAT and seal(value)
    except (SchemaError, RecursionError) as error:
        raise UserError(
            f"{bundle} is no bundle: its {MANIFEST} {error}; make one with `moesaic compile`"
        ) from error
    if not sealed:
        found = value.get("format") if isinstance(value, dict) else None
        raise UserError(
            f"bundle {bundle} has format {reprlib.repr(found)}, this version reads {FORMAT};"
            " compile it again"
        )
    if value.get("seal") != sealed:
        raise UserError(
            f"bundle {bundle} is corrupt: {MANIFEST} does not match its hash; compile it again"
        )
    names = {"format", "arch", "arch_hash", "tasks", "joint", "files", "report", "seal"}
    if set(value) != names:
        raise SchemaError(f"{MANIFEST} must have the fields {', '.join(sorted(names))}")
    try:
        # Targets of bundles from before there was a feature are those without it.
        written = value["arch"]
        if isinstance(written, dict):
            written = {**dict.fromkeys(LATER, False), **written}
        arch = Reader().read(ArchConfig, written, "arch")
    except UserError as error:
        raise SchemaError(str(error)) from error
    if value["arch_hash"] != arch.hash:
        raise UserError(
            f"bundle {bundle} was made for another version of the gateware; compile it again"
        )
    tasks = Reader().read(Tasks, value["tasks"], "tasks")
    return _checked(arch, tasks, value)


def _checked(arch: ArchConfig, tasks: dict[str, TaskEntry], value: dict[str, Any]) -> Manifest:
    expected = {IMAGE, GRAPHS, ARRAYS, SAMPLES}
    for name, task in tasks.items():
        if not name.isidentifier() or len(name.encode()) >= NAME_BYTES:
            raise SchemaError(f"tasks has a name that no task has: {name!r}")
        if task.host_part not in (None, host_part_name(name)):
            raise SchemaError(f"tasks.{name}.host_part must be {host_part_name(name)!r}")
        if task.front not in (None, front_name(name)):
            raise SchemaError(f"tasks.{name}.front must be {front_name(name)!r}")
        expected |= {part for part in (task.host_part, task.front) if part is not None}
    joint = Reader().read(dict[str, JointEntry], value["joint"], "joint")
    check_joint(joint, tasks)
    files = Reader().read(dict[str, FileEntry], value["files"], "files")
    if set(files) != expected:
        raise SchemaError(f"files must be {', '.join(sorted(expected))}")
    for name, file in files.items():
        if not re.fullmatch("[0-9a-f]{64}", file.sha256):
            raise SchemaError(f"files.{name}.sha256 is no hash")
    report = value["report"]
    if not isinstance(report, dict) or not isinstance(report.get("tasks"), dict):
        raise SchemaError("report must be an object that has one of tasks")
    reports = Reader(extra=True).read(dict[str, TaskReport], report["tasks"], "report.tasks")
    for name, task in tasks.items():
        host = reports[name].host if name in reports else None
        if (host is None) != (task.host_part is None):
            raise SchemaError(f"report.tasks.{name}.host does not fit tasks.{name}.host_part")
        front = reports[name].front if name in reports else None
        if (front is None) != (task.front is None):
            raise SchemaError(f"report.tasks.{name}.front does not fit tasks.{name}.front")
    if unknown := sorted(set(reports) - set(tasks)):
        raise SchemaError(f"report.tasks.{unknown[0]} is no task")
    together = Reader(extra=True).read(
        dict[str, JointReport], report.get("joint", {}), "report.joint"
    )
    if unknown := sorted(set(together) - set(joint)):
        raise SchemaError(f"report.joint.{unknown[0]} is no program of several tasks or frames")
    return Manifest(arch, tasks, joint, files, report, reports)


def check_report(name: str, report: TaskReport, graph: IntGraph) -> None:
    """Hold a task's report against its graph.

    Raises
    ------
    SchemaError
        Tokens, layers or routing are those of another graph.
    """
    where = f"report.tasks.{name}"
    if (report.tokens, report.layers, report.macs) != (
        graph.tokens,
        len(graph.layers),
        graph.macs,
    ):
        raise SchemaError(f"{where} is of another graph")
    experts = {layer.name: layer for layer in graph.layers if isinstance(layer, IntMoe)}
    for label, counts in report.routing.items():
        layer = experts.get(label)
        if layer is None:
            raise SchemaError(f"{where}.routing.{label} is no layer with experts")
        fits = len(counts) == len(layer.experts) and max(counts, default=0) <= graph.tokens
        if not fits or sum(counts) != graph.tokens * layer.top_k:
            raise SchemaError(f"{where}.routing.{label} does not fit the layer's experts")
