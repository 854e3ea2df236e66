"""Strategies that spoil a bundle in one place or several, and seal it again."""

from __future__ import annotations

import copy
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from moesaic.spec import image, manifest
from tests.spec.bundle_pieces import Pieces, host_model, reseal_image

Mutation = tuple[str, Callable[[Pieces], None]]
"""What is done, and what does it."""

EDGES = (
    0, 1, -1, 2, 3, 7, 63, 64, 127, 255, 256, 4095, 65535, 65536, (1 << 31) - 1, 1 << 31,
    (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, 10**18, 10**30,
)  # fmt: skip

WILD: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(EDGES),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.none(),
    st.booleans(),
    st.text(max_size=8),
    st.sampled_from(["../x", "/etc/passwd", "a\nb", "\x1b[31m", "IntMoe", "\ud800", "x" * 5000]),
    st.just([]),
    st.just({}),
    st.lists(st.integers(0, 99), max_size=3),
    st.just({"array": "nothing"}),
    st.just({"type": "IntGraph"}),
    st.just(json.loads("[" * 50 + "]" * 50)),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    result = []
    for key, item in inside:
        result.append((*path, key))
        if isinstance(item, (dict, list)):
            result += _places(item, (*path, key))
    return result


def _edit(value: Any, where: float, kind: str, wild: Any, other: float) -> None:
    places = _places(value)
    path = places[int(where * len(places))]
    for key in path[:-1]:
        value = value[key]
    key = path[-1]
    if kind == "replace":
        value[key] = copy.deepcopy(wild)
    elif kind == "shift" and isinstance(value[key], (int, float)):
        value[key] += 1 if other < 0.5 else -1
    elif kind == "delete":
        del value[key]
    elif kind == "repeat" and isinstance(value, list):
        value.insert(key, value[key])
    elif kind == "add":
        value.append(copy.deepcopy(wild)) if isinstance(value, list) else value.update(more=1)
    elif kind == "swap":
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        second = keys[int(other * len(keys))]
        value[key], value[second] = value[second], value[key]
    elif kind == "rename" and isinstance(value, dict):
        value[str(wild)[:9]] = value.pop(key)


@st.composite
def json_edits(draw: st.DrawFn) -> Mutation:
    """A change somewhere in the graphs, or in the manifest or its report."""
    part = draw(st.sampled_from(["graphs", "graphs", "manifest", "report", "tasks"]))
    kind = draw(
        st.sampled_from(
            ["replace", "replace", "shift", "delete", "repeat", "add", "swap", "rename"]
        )
    )
    where, other = (draw(st.floats(0, 1, exclude_max=True)) for _ in range(2))
    wild = draw(WILD)

    def mutate(p: Pieces) -> None:
        value = p.graphs if part == "graphs" else p.manifest
        if part in ("report", "tasks") and isinstance(p.manifest.get(part), dict):
            value = p.manifest[part]
        if isinstance(value, (dict, list)) and value:
            _edit(value, where, kind, wild, other)

    return f"{part}: {kind} at {where:.3f} {wild!r:.40}", mutate


@st.composite
def array_edits(draw: st.DrawFn) -> Mutation:
    """Another type, shape or contents of an array, one more or one fewer."""
    part = draw(st.sampled_from(["arrays", "samples"]))
    kind = draw(
        st.sampled_from(
            [
                "dtype",
                "flat",
                "shorter",
                "longer",
                "fill",
                "noise",
                "drop",
                "extra",
                "columns",
                "nan",
            ]
        )
    )
    where = draw(st.floats(0, 1, exclude_max=True))
    dtype = draw(
        st.sampled_from(["i1", "u1", "<i2", "<u2", "<i4", "<i8", ">i4", "<f4", "<f8", "?"])
    )
    value, seed = draw(st.sampled_from(EDGES)), draw(st.integers(0, 99))

    def mutate(p: Pieces) -> None:
        arrays: dict[str, np.ndarray] = getattr(p, part)
        if not arrays:
            return
        name = sorted(arrays)[int(where * len(arrays))]
        array = arrays[name].copy()
        limits = np.iinfo(array.dtype) if array.dtype.kind in "iu" else None
        if kind == "dtype":
            array = array.astype(dtype)
        elif kind == "flat":
            array = array.reshape(-1)
        elif kind == "shorter":
            array = array[: len(array) // 2]
        elif kind == "longer":
            array = np.concatenate([array, array])
        elif kind == "fill":
            array[...] = np.clip(value, limits.min, limits.max) if limits else min(value, 1e30)
        elif kind == "noise" and limits:
            rng = np.random.default_rng(seed)
            array[...] = rng.integers(limits.min, limits.max, array.shape, array.dtype, True)
        elif kind == "columns":
            array = array.T
        elif kind == "nan" and not limits:
            array.reshape(-1)[0] = np.nan
        elif kind == "extra":
            arrays["extra"] = array
        arrays[name] = array
        if kind == "drop":
            del arrays[name]

    return f"{part}: {kind} at {where:.3f}", mutate


@st.composite
def image_edits(draw: st.DrawFn) -> Mutation:
    """Another value of a field of the device image, checksums made right; or bytes of it."""
    dtype = draw(st.sampled_from([image.HEADER, image.SECTION, image.TASK]))
    names = [n for n in dtype.names or () if n not in ("sha256", "crc", "table_crc", "name")]
    name, row = draw(st.sampled_from([*names, "bytes"])), draw(st.integers(0, 3))
    value, where = draw(st.sampled_from(EDGES)), draw(st.floats(0, 1, exclude_max=True))

    def mutate(p: Pieces) -> None:
        data = p.image
        if name == "bytes" and row % 2 or dtype is image.HEADER and name == "bytes":
            del data[int(where * len(data)) + 1 :]
        elif name not in names:
            data[int(where * len(data))] ^= 1 + value % 255
        else:
            sections = 2 + 2 * 2
            first = {
                id(image.HEADER): 0,
                id(image.SECTION): image.HEADER.itemsize,
                id(image.TASK): image.HEADER.itemsize + sections * image.SECTION.itemsize,
            }[id(dtype)]
            start = first + (0 if dtype is image.HEADER else row % 2 * dtype.itemsize)
            part = np.frombuffer(data[start : start + dtype.itemsize], dtype).copy()
            numbers = part[name].reshape(-1)  # of a field that is an array
            numbers[int(where * len(numbers))] = value % (1 << 8 * numbers.itemsize)
            data[start : start + dtype.itemsize] = part.tobytes()
        if len(data) >= image.HEADER.itemsize:
            reseal_image(data)

    return f"image: {name} of row {row} at {where:.3f} = {value}", mutate


def _zip(entries: dict[str, bytes], method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return buffer.getvalue()


def _npy(descr: str, shape: str, data: bytes = b"") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


BAD_ARCHIVES: dict[str, bytes] = {
    "empty": b"",
    "no zip": b"PK\x03\x04 and nothing behind it",
    "no entries": _zip({}, zipfile.ZIP_DEFLATED),
    "a bomb": _zip({"a.npy": _npy("'|i1'", "(67108864,)", bytes(1 << 26))}, zipfile.ZIP_DEFLATED),
    "says more": _zip({"a.npy": _npy("'<f8'", "(1000000000000,)")}, zipfile.ZIP_STORED),
    "says little more": _zip({"a.npy": _npy("'<f8'", "(1000,)", bytes(7999))}, zipfile.ZIP_STORED),
    "has more": _zip({"a.npy": _npy("'|i1'", "(1,)", b"ab")}, zipfile.ZIP_STORED),
    "overflows": _zip({"a.npy": _npy("'<f8'", f"({1 << 62}, 8)")}, zipfile.ZIP_STORED),
    "empty but large": _zip({"a.npy": _npy("'<f8'", f"(0, {10**30})")}, zipfile.ZIP_STORED),
    "negative": _zip({"a.npy": _npy("'<f8'", "(-1,)")}, zipfile.ZIP_STORED),
    "objects": _zip({"a.npy": _npy("'|O'", "(1,)", b"cos\nsystem\n.")}, zipfile.ZIP_STORED),
    "text": _zip({"a.npy": _npy("'<U4'", "(1,)", bytes(16))}, zipfile.ZIP_STORED),
    "records": _zip({"a.npy": _npy("[('a', '<f4')]", "(1,)", bytes(4))}, zipfile.ZIP_STORED),
    "deep header": _zip({"a.npy": _npy("(" * 4000 + ")" * 4000, "(1,)")}, zipfile.ZIP_STORED),
    "no header": _zip({"a.npy": b"\x93NUMPY\x01\x00\xff\xff{"}, zipfile.ZIP_STORED),
    "no array": _zip({"a.npy": b"hello"}, zipfile.ZIP_STORED),
    "lzma": _zip({"a.npy": _npy("'|i1'", "(1,)", b"a")}, zipfile.ZIP_LZMA),
}


@st.composite
def raw_edits(draw: st.DrawFn) -> Mutation:
    """Contents of a file that are nothing of the kind, or damaged."""
    name = draw(st.sampled_from([manifest.ARRAYS, manifest.SAMPLES]))
    kind = draw(st.sampled_from([*BAD_ARCHIVES, "flip", "cut", "deep", "words", "digits", "host"]))
    where, seed = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 255))

    def mutate(p: Pieces) -> None:
        if kind in BAD_ARCHIVES:
            p.raw[name] = BAD_ARCHIVES[kind]
        elif kind in ("flip", "cut"):
            data = bytearray(p.files()[name])
            data[int(where * len(data))] ^= seed
            p.raw[name] = bytes(data if kind == "flip" else data[: int(where * len(data))])
        elif kind == "host":
            entries = p.manifest.get("tasks")
            for file in p.others:
                model = bytearray(p.others[file])
                model[int(where * len(model))] ^= seed
                p.others[file] = bytes(model) if seed % 3 else host_model(seed % 9)
            for task, part in (("depth", "host"), ("seg", "front")):
                file = f"{task}.{part}.onnx"
                entry = entries.get(task) if isinstance(entries, dict) else None
                if file not in p.others and seed % 2 and isinstance(entry, dict):
                    entry["host_part" if part == "host" else part] = file
        else:
            text = {"deep": b"[" * 200_000, "words": b"bundle", "digits": b"[" + b"9" * 5000 + b"]"}
            json_file = manifest.GRAPHS if seed % 2 else manifest.MANIFEST
            p.raw[json_file] = text[kind] + b"]" * 200_000 * (kind == "deep")

    return f"{name}: {kind} at {where:.3f} by {seed}", mutate


MUTATIONS = st.lists(
    st.one_of(json_edits(), json_edits(), array_edits(), image_edits(), raw_edits()),
    min_size=0,
    max_size=3,
)


@st.composite
def file_edits(draw: st.DrawFn) -> tuple[str, Callable[[Path], None]]:
    """Something that is no plain file of the folder, under a name that the manifest has."""
    names = [manifest.IMAGE, manifest.GRAPHS, manifest.ARRAYS, manifest.SAMPLES, manifest.MANIFEST]
    name = draw(st.sampled_from(names))
    kind = draw(st.sampled_from(["none", "gone", "fifo", "folder", "device", "link", "large"]))

    def mutate(folder: Path) -> None:
        path = folder / name
        if kind != "none":
            path.rename(folder / "moved")
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "link":
            path.symlink_to("moved")
        elif kind == "large":
            path.touch()
            os.truncate(path, 1 << 42)

    return f"{name}: {kind}", mutate
