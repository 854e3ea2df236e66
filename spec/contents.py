"""Graphs and samples of a bundle, checked against each other and against the device image."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.arch import ArchConfig
from moesaic.spec.arrays import Archive, memory_bytes
from moesaic.spec.constants import may_have_bytes, pack_constants
from moesaic.spec.graphcheck import check_shapes, check_values
from moesaic.spec.image import ImageTask
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.manifest import ARRAYS, GRAPHS, IMAGE, SAMPLES
from moesaic.spec.schema import Reader, SchemaError, load_json


def float_part(number: int) -> str:
    """What samples call the float values of an output, by its number."""
    return f"float{number or ''}"


MAX_SAMPLES = 64
"""Frames that a bundle keeps of a task, at most."""


def read_graphs(
    bundle: str, arch: ArchConfig, files: Mapping[str, bytes], parts: Mapping[str, ImageTask]
) -> dict[str, IntGraph]:
    """The integer graphs, when everything about them is checked.

    The first reading takes arrays that have the shapes of the archive's headers and no contents,
    so that nothing is unpacked for a graph that is refused.

    Parameters
    ----------
    bundle
        How messages name the bundle.
    arch
        What it was compiled for.
    files
        Contents by name.
    parts
        The tasks of the device image, which no graph may contradict.

    Raises
    ------
    SchemaError
        A rule is broken.
    UserError
        The archive is damaged.
    """
    try:
        value = load_json(files[GRAPHS])
    except SchemaError as error:
        raise SchemaError(f"{GRAPHS} {error}") from error
    archive = Archive(files[ARRAYS], f"{ARRAYS} of bundle {bundle}")
    hollow = {
        name: np.broadcast_to(np.zeros((), entry.dtype), entry.shape)
        for name, entry in archive.entries.items()
        if entry.numeric
    }
    kind = dict[str, IntGraph]
    reader = Reader(hollow, tagged=True)
    indices = 0
    for name, graph in reader.read(kind, value, GRAPHS).items():
        try:
            check_shapes(graph)
        except SchemaError as error:
            raise SchemaError(f"{GRAPHS}.{name}.{error}") from error
        if graph.task != name:
            raise SchemaError(f"{GRAPHS}.{name}.task is {graph.task!r}")
        _check_part(arch, name, graph, parts)
        indices += graph.gather.nbytes + sum(head.permutation.nbytes for head in graph.heads)
    if reader.used != set(archive):
        raise SchemaError(f"{ARRAYS} holds an array that no graph has")
    # What is not an index is in the image too, where every array lies once and is not packed.
    if archive.bytes > min(4 * len(files[IMAGE]) + indices, memory_bytes()):
        raise SchemaError(f"{ARRAYS} unpacks to far more than {IMAGE} has")
    graphs: dict[str, IntGraph] = Reader(dict(archive), tagged=True).read(kind, value, GRAPHS)
    for name, graph in graphs.items():
        try:
            check_values(graph)
        except SchemaError as error:
            raise SchemaError(f"{GRAPHS}.{name}.{error}") from error
        if pack_constants(graph, arch) != parts[name].constants:
            raise SchemaError(f"{IMAGE} has other constants for task {name} than {GRAPHS}")
    return graphs


def _check_part(
    arch: ArchConfig, name: str, graph: IntGraph, parts: Mapping[str, ImageTask]
) -> None:
    """Hold a graph's shapes against the task's part of the image."""
    if name not in parts:
        raise SchemaError(f"{GRAPHS} holds another task than the manifest names: {name!r}")
    part = parts[name]
    if ImageTask.of(arch, graph, part.program, part.constants) != part:
        raise SchemaError(f"{IMAGE} has other shapes or scratch for task {name} than {GRAPHS}")
    if not may_have_bytes(graph, arch, len(part.constants)):
        raise SchemaError(f"{IMAGE} has constants of another size for task {name} than {GRAPHS}")


def read_samples(
    bundle: str,
    graphs: Mapping[str, IntGraph],
    outputs: Mapping[str, Mapping[str, tuple[int, ...]]],
    data: bytes,
) -> dict[str, NDArray[Any]]:
    """Samples of each task that has them: as many inputs as float outputs and codes.

    Parameters
    ----------
    bundle
        How messages name the bundle.
    graphs, outputs
        By task: its graph, and the shapes of its outputs for the user.
    data
        Contents of the archive.

    Raises
    ------
    SchemaError, UserError
        As :func:`read_graphs`.
    """
    archive = Archive(data, f"{SAMPLES} of bundle {bundle}")
    expected: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    for task, graph in graphs.items():
        if not any(name.partition(".")[0] == task for name in archive.entries):
            continue
        expected[f"{task}.input"] = np.dtype("<f4"), tuple(graph.input_shape[1:])
        for number, shape in enumerate(outputs[task].values()):
            expected[f"{task}.{float_part(number)}"] = np.dtype("<f4"), shape[1:]
        expected[f"{task}.codes"] = np.dtype("<i2"), (graph.codes,)
    if set(expected) != set(archive.entries):
        raise SchemaError(f"{SAMPLES} must have an input, floats and codes of a task, and no more")
    counts = set()
    for name, (dtype, shape) in expected.items():
        entry = archive.entries[name]
        count = entry.shape[0] if entry.shape else 0
        counts.add((name.partition(".")[0], count))
        good = entry.dtype == dtype and entry.shape == (count, *shape)
        if not good or not 1 <= count <= MAX_SAMPLES:
            raise SchemaError(
                f"{name} of {SAMPLES} must be {dtype} of shape N{shape}, not"
                f" {entry.dtype} {reprlib.repr(entry.shape)}"
            )
    if len(counts) != len({task for task, _ in counts}):
        raise SchemaError(f"{SAMPLES} has unequal numbers of inputs, floats and codes")
    samples = dict(archive)
    for name, array in samples.items():
        if not np.isfinite(array).all():
            raise SchemaError(f"{name} of {SAMPLES} holds NaN or infinity")
    return samples
