"""The bundle: a directory with everything needed to run a compiled model anywhere.

    manifest.json   format version, architecture, sizes and hashes of the other files, tasks
    device.bin      weights, programs and constants as the device's memory takes them: `spec.image`;
                    of each task, and of what is computed together: `spec.joint`
    TASK.host.onnx  of a partitioned task: what the host computes from the accelerator's output
    TASK.front.onnx the same, to the accelerator's input
    graphs.json     the integer graphs; arrays by name
    graphs.npz      their arrays, equal arrays stored once
    samples.npz     a few inputs of the accelerator (``TASK.input``), ONNX Runtime's float outputs
                    (``TASK.float``, of further outputs ``TASK.float1`` and so on) and the integer
                    output codes expected of every device (``TASK.codes``)

This module needs numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from moesaic.spec import image, intgraph
from moesaic.spec.arch import ArchConfig
from moesaic.spec.arrays import memory_bytes
from moesaic.spec.contents import read_graphs, read_samples
from moesaic.spec.errors import UserError
from moesaic.spec.folder import Folder, read_folder
from moesaic.spec.hostpart import HostPart
from moesaic.spec.joint import JointEntry, check_parts, image_part
from moesaic.spec.manifest import (
    ARRAYS,
    GRAPHS,
    IMAGE,
    MANIFEST,
    MAX_JSON_BYTES,
    SAMPLES,
    Manifest,
    TaskEntry,
    check_report,
    digest,
    read_manifest,
)
from moesaic.spec.notebook import html_table, shape_text
from moesaic.spec.schema import SchemaError

__all__ = ["ARRAYS", "GRAPHS", "IMAGE", "SAMPLES", "Bundle", "TaskEntry", "load_bundle"]


@dataclass(frozen=True, repr=False)
class Bundle:
    """A validated bundle in memory."""

    path: Path
    arch: ArchConfig
    tasks: dict[str, TaskEntry]
    graphs: dict[str, intgraph.IntGraph]
    programs: dict[str, bytes]
    """Program of each task, and of what is computed together, by its name."""
    weights: bytes
    """The weight image: ring words in stream order, not split over the ports."""
    constants: dict[str, bytes]
    """Contents of the CONSTANT window of each program."""
    samples: dict[str, NDArray[Any]]
    report: dict[str, Any]
    """What the compiler measured: calibration, sizes, notes."""
    host_parts: dict[str, bytes] = field(default_factory=dict)
    """ONNX models of the partitioned tasks."""
    fronts: dict[str, bytes] = field(default_factory=dict)
    """ONNX models of what tasks have in front of the accelerator."""
    joint: dict[str, JointEntry] = field(default_factory=dict)
    """Programs of several tasks or frames."""

    def __repr__(self) -> str:
        tasks = ", ".join(self.tasks)
        return f"<Bundle {str(self.path)!r}: {tasks} for {self.arch.name}>"

    def _repr_html_(self) -> str:
        """A row of each task, for notebooks."""
        rows = []
        for name, graph in self.graphs.items():
            ends = self.outputs(name).items()
            outputs = ", ".join(f"{end} {shape_text(shape)}" for end, shape in ends)
            begins = self.inputs(name).items()
            inputs = ", ".join(f"{start} {shape_text(shape)}" for start, shape in begins)
            rows.append((name, inputs, outputs, f"{graph.macs / 1e6:.2f}"))
        return html_table(repr(self)[1:-1], ("task", "input", "output", "M MAC"), rows)

    def host_part(self, task: str) -> HostPart | None:
        """Return what the host computes behind the accelerator, if there is anything."""
        if task not in self.host_parts:
            return None
        name = f"the host's part of task {task} of {self.path}"
        return HostPart(self.host_parts[task], name, dict(self.outputs(task)))

    def front(self, task: str) -> HostPart | None:
        """Return what the host computes in front of the accelerator, if there is anything."""
        if task not in self.fronts:
            return None
        graph = self.graphs[task]
        made = {graph.input_name: tuple(graph.input_shape)}
        return HostPart(self.fronts[task], f"the front of task {task} of {self.path}", made)

    def inputs(self, task: str) -> dict[str, tuple[int, ...]]:
        """Return the input that a user of a task gives: name to shape, the first axis a frame."""
        graph = self.graphs[task]
        if task not in self.fronts:
            return {graph.input_name: tuple(graph.input_shape)}
        shapes = self.report["tasks"][task]["front"]["inputs"]
        return {name: tuple(shape) for name, shape in shapes.items()}

    def outputs(self, task: str) -> dict[str, tuple[int, ...]]:
        """Return the outputs that a user of a task sees: name to shape, the first axis a frame."""
        graph = self.graphs[task]
        if task not in self.host_parts:
            return {head.name: tuple(head.shape) for head in graph.heads}
        shapes = self.report["tasks"][task]["host"]["outputs"]
        return {name: tuple(shape) for name, shape in shapes.items()}

    def sample(self, task: str, part: str) -> NDArray[Any]:
        """Return a task's stored ``input``, ``float``, ``float1`` or ``codes``, [frames, ...].

        Raises
        ------
        UserError
            The bundle holds no samples of the task.
        """
        if f"{task}.{part}" not in self.samples:
            raise UserError(f"{self.path} holds no samples of task {task}; compile it again")
        return self.samples[f"{task}.{part}"]

    @cached_property
    def image(self) -> bytes:
        """The device image, see :mod:`moesaic.spec.image`."""
        tasks = {
            name: image_part(
                self.arch, self.graphs, self.joint, name, program, self.constants[name]
            )
            for name, program in self.programs.items()
        }
        return image.build_image(self.arch, self.weights, tasks)

    @cached_property
    def program_cycles(self) -> dict[str, int]:
        """Estimated cycles of a run of each program, of a task and of what is computed together,
        for those that the report has."""
        reports = {**self.report.get("tasks", {}), **self.report.get("joint", {})}
        return {name: reports[name]["cycles"] for name in self.programs if name in reports}

    def labels(self, program: str) -> list[str]:
        """Return the layer names by the ``layer`` field of a program's instructions."""
        entry = self.joint[program] if program in self.joint else self.tasks[program]
        return entry.labels

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
            raise UserError(
                f"{self.path} holds several tasks; name one (--task, task= in Python): {known}"
            )
        if name in self.joint:
            raise UserError(
                f"{self.path} computes {name} together, which is no task of its own: its tasks are"
                f" {known}; verify without --task checks such programs, too, and run, serve and"
                " Session.run_many take them where they are faster"
            )
        if name not in self.tasks:
            raise UserError(f"{self.path} has no task {name!r}; its tasks are: {known}")
        return name


def load_bundle(location: str | Path) -> Bundle:
    """Read and validate a bundle directory.

    Seals show damage, not good will: whatever they enclose is checked as well.

    Raises
    ------
    UserError
        It is no bundle, of another format version, incomplete, a hash does not match, or its
        contents break a rule.
    """
    path = Path(location)
    manifest, files = read_folder(path, _read_files)
    return _checked(path, manifest, files)


def parse_bundle(path: Path, files: Mapping[str, bytes]) -> Bundle:
    """Like :func:`load_bundle` from the contents of all files by name; ``path`` is for messages."""
    with _naming(path):
        manifest = read_manifest(files[MANIFEST], str(path))
    return _checked(path, manifest, files)


def _read_files(folder: Folder) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest, and the files that it names, which must be plain files of the folder."""
    try:
        raw = folder.read(MANIFEST, MAX_JSON_BYTES)
    except UserError as error:
        raise UserError(
            f"{folder.path} is no bundle: {error}; make one with `moesaic compile`"
        ) from error
    with _naming(folder.path):
        manifest = read_manifest(raw, str(folder.path))
    if (total := sum(entry.size_bytes for entry in manifest.files.values())) > memory_bytes():
        raise UserError(f"bundle {folder.path} has {total} bytes: too much for this machine")
    files = {}
    for name, entry in manifest.files.items():
        try:
            files[name] = folder.read(name, entry.size_bytes)
        except UserError as error:
            raise UserError(
                f"bundle {folder.path} is incomplete: {error}; compile it again"
            ) from error
        if digest(files[name]) != entry.sha256:
            raise UserError(
                f"bundle {folder.path} is corrupt: {name} does not match its hash; compile again"
            )
    return manifest, files


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which bundle breaks a rule."""
    try:
        yield
    except (SchemaError, image.ImageError) as error:
        raise UserError(f"bundle {path} is damaged: {error}; compile it again") from error


def _checked(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    with _naming(path):
        arch, names = manifest.arch, list(manifest.tasks)
        weights, parts = image.read_image(arch, files[IMAGE])
        if list(parts) != [*names, *manifest.joint]:
            raise SchemaError(f"{IMAGE} holds other programs than the manifest names")
        graphs = read_graphs(str(path), arch, files, {name: parts[name] for name in names})
        if set(graphs) != set(names):
            raise SchemaError(f"{GRAPHS} holds other tasks than the manifest names")
        for name, report in manifest.reports.items():
            check_report(name, report, graphs[name])
        for name, entry in manifest.tasks.items():
            if entry.activation_words > arch.activation_words:
                raise SchemaError(f"tasks.{name}.activation_words are more than there are")
        check_parts(arch, graphs, manifest.joint, parts)
        bundle = Bundle(
            path,
            arch,
            manifest.tasks,
            {name: graphs[name] for name in names},
            {name: part.program for name, part in parts.items()},
            weights,
            {name: part.constants for name, part in parts.items()},
            {},
            manifest.report,
            {name: files[e.host_part] for name, e in manifest.tasks.items() if e.host_part},
            {name: files[e.front] for name, e in manifest.tasks.items() if e.front},
            manifest.joint,
        )
        outputs = {name: bundle.outputs(name) for name in names}
        bundle.samples.update(read_samples(str(path), graphs, outputs, files[SAMPLES]))
        return bundle
