"""Files that the page takes figures from, checked field by field: the bundle's report, and what
`moesaic accuracy` and `make resources` have written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from moesaic.spec.arch import ArchConfig
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from moesaic.spec.manifest import FrontReport, HostReport
from moesaic.spec.parts import FAMILIES
from moesaic.spec.schema import Range, Reader, SchemaError, Unbounded, load_json

MAX_FILE_BYTES = 1 << 29
"""Of a file named on the command line; timelines of many frames are large."""

Figure = Annotated[float, Unbounded()]


@dataclass(frozen=True)
class PointFigures:
    """One quantised point: see ``PointReport``."""

    bits: int
    maximum: Figure
    clip: Figure
    clipped: Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class QuantFigures:
    """What quantisation says of a task: see ``QuantReport``."""

    samples: int
    held_out: bool
    routing_flips: dict[str, Annotated[float, Range(0, 1)]]
    points: dict[str, PointFigures]
    notes: list[str]


@dataclass(frozen=True)
class TaskFigures:
    """What the page takes from a task's report."""

    source: str
    sqnr_db: Figure
    warning: str | None
    instructions: int
    notes: list[str]
    routing: dict[str, list[int]]
    quantisation: QuantFigures
    host: HostReport | None
    front: FrontReport | None


@dataclass(frozen=True)
class PointDecibels:
    """One point of `moesaic accuracy`."""

    point: str
    alone_db: Figure | None


@dataclass(frozen=True)
class _Accuracy:
    points: list[PointDecibels]


@dataclass(frozen=True)
class FamilyFigures:
    """Resources of a target on a family: by kind, of the whole and of the part."""

    part: str
    capacity: dict[str, float]
    totals: dict[str, float]


@dataclass(frozen=True)
class _Resources:
    target: str
    arch_hash: str
    families: dict[str, FamilyFigures]


def read_report(bundle: Bundle) -> dict[str, TaskFigures]:
    """Figures of every task.

    Raises
    ------
    UserError
        A task has none, or they are no figures.
    """
    reports = bundle.report["tasks"]
    for task in bundle.graphs:
        if task not in reports:
            raise UserError(f"bundle {bundle.path} has no report of task {task}; compile it again")
    try:
        found: dict[str, TaskFigures] = Reader(extra=True).read(
            dict[str, TaskFigures], reports, "report.tasks"
        )
    except SchemaError as error:
        raise UserError(f"bundle {bundle.path} is damaged: {error}; compile it again") from error
    return found


def read_accuracy(path: Path, tasks: list[str]) -> dict[str, dict[str, float | None]]:
    """By task and point, dB of its rounding alone; None for no error at all.

    Raises
    ------
    UserError
        The file is none of `moesaic accuracy`, or is of other tasks.
    """
    way = "write it by `moesaic accuracy --json`"
    found: dict[str, _Accuracy] = _read(path, dict[str, _Accuracy], "--accuracy", way)
    if unknown := sorted(set(found) - set(tasks)):
        raise UserError(
            f"--accuracy {path} is of task {unknown[0]!r}; the bundle has {', '.join(tasks)}"
        )
    return {
        task: {
            one.point: one.alone_db if one.alone_db is None or math.isfinite(one.alone_db) else None
            for one in accuracy.points
        }
        for task, accuracy in found.items()
    }


def read_resources(path: Path, arch: ArchConfig) -> dict[str, FamilyFigures]:
    """By family, the resources of ``arch``.

    Raises
    ------
    UserError
        The file is none of `make resources`, or is of another target.
    """
    way = f"write it by `make resources TARGET={arch.name}`"
    found: _Resources = _read(path, _Resources, "--resources", way)
    if found.arch_hash != f"0x{arch.hash:08x}":
        raise UserError(
            f"--resources {path} is of {found.target} {found.arch_hash}, not of the bundle's"
            f" {arch.name} 0x{arch.hash:08x}; {way}"
        )
    for family, figures in found.families.items():
        kinds = set(FAMILIES.get(family, ()))
        if not kinds or not set(figures.totals) == set(figures.capacity) == kinds:
            raise UserError(f"--resources {path} has no figures of the family {family!r}; {way}")
    return found.families


def read_json(path: Path, option: str, way: str) -> Any:
    """Contents of a JSON file named by an option.

    Raises
    ------
    UserError
        It cannot be read; ``way`` says how to get one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise UserError(f"{option} {path} has more than {MAX_FILE_BYTES >> 20} MiB")
        return load_json(data)
    except (OSError, SchemaError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{option} {path} cannot be read: {reason}; {way}") from error


def _read(path: Path, kind: Any, option: str, way: str) -> Any:
    try:
        return Reader(extra=True).read(kind, read_json(path, option, way), "it")
    except SchemaError as error:
        raise UserError(f"{option} {path} has other contents: {error}; {way}") from error
