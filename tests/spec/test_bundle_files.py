"""Files of a bundle: only plain ones, of bounded size and depth, and what they are said to be."""

from __future__ import annotations

import json
import os
import re
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesaic.spec import folder as folders
from moesaic.spec import manifest
from moesaic.spec.bundle import load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.folder import read_folder
from tests.spec.bundle_mutations import BAD_ARCHIVES
from tests.spec.bundle_pieces import Pieces, first, pieces, refusal

Change = Callable[[Pieces], object]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (manifest.MANIFEST, b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
        (manifest.MANIFEST, b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "nested too deeply"),
        (manifest.MANIFEST, b'{"format": %s}' % (b"9" * 10_000), "a number of 10000 digits"),
        (manifest.MANIFEST, b"\xff\xfe", "is no JSON"),
        (manifest.MANIFEST, b"", "is no JSON"),
        (manifest.MANIFEST, b"[]", "has format None"),
        (manifest.MANIFEST, b" " * (manifest.MAX_JSON_BYTES + 1), "more than the"),
        (manifest.GRAPHS, b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
        (manifest.GRAPHS, b"nothing", "is no JSON"),
    ],
)
def test_json_is_bounded(name: str, text: bytes, message: str, tmp_path: Path) -> None:
    made = pieces(0)
    made.raw[name] = text
    made.write(tmp_path)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_bad_archives_are_refused(kind: str, tmp_path: Path) -> None:
    for name in (manifest.ARRAYS, manifest.SAMPLES):
        made = pieces(0)
        made.raw[name] = BAD_ARCHIVES[kind]
        folder = tmp_path / name
        folder.mkdir()
        made.write(folder)
        if (name, kind) == (manifest.SAMPLES, "no entries"):
            assert load_bundle(folder).samples == {}
        else:
            assert name in refusal(folder) or "must be an array that is there" in refusal(folder)


def moe_macs(made: Pieces, moe: dict[str, Any]) -> int:
    """Multiply-accumulates of the experts of a layer of ``seg``."""
    tokens, channels = made.arrays[made.graphs["seg"]["embed"]["initial"]["array"]].shape
    hidden = [made.arrays[e["up"]["bias"]["array"]].size for e in moe["experts"]]
    return moe["top_k"] * sum(2 * tokens * channels * each for each in hidden) // len(hidden)


def test_archive_that_unpacks_to_far_more_is_refused_unread(tmp_path: Path) -> None:
    """Shapes that fit each other, and weights that the image has no room for."""
    made, hidden = pieces(0), 1 << 22
    moe = first(made, "IntMoe")
    expert = moe["experts"][1]
    channels = made.arrays[expert["down"]["bias"]["array"]].size
    before = moe_macs(made, moe)
    bomb = {
        ("up", "weight"): np.zeros((hidden, channels), np.int8),
        ("up", "bias"): np.zeros(hidden, np.int32),
        ("up", "multiplier"): np.zeros(hidden, np.uint16),
        ("up", "shift"): np.zeros(hidden, np.uint8),
        ("down", "weight"): np.zeros((channels, hidden), np.int8),
    }
    for (layer, field), array in bomb.items():
        made.arrays[f"{layer} {field}"] = array
        expert[layer][field] = {"array": f"{layer} {field}"}
    made.graphs["seg"]["macs"] += moe_macs(made, moe) - before
    unused = set(made.arrays) - set(re.findall(r'"array": "([^"]*)"', json.dumps(made.graphs)))
    for name in unused:
        del made.arrays[name]
    made.write(tmp_path)
    made.arrays.clear()
    tracemalloc.start()
    try:
        assert "unpacks to far more than device.bin has" in refusal(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < sum(array.nbytes for array in bomb.values()) / 10


SAMPLE_CHANGES: dict[str, tuple[Change, str]] = {
    "type": (lambda p: swap(p, "seg.input", lambda a: a.astype(np.float64)), "must be float32"),
    "shape": (lambda p: swap(p, "seg.codes", lambda a: a[:, :1]), "of shape N"),
    "count": (lambda p: swap(p, "seg.codes", lambda a: a[:1]), "unequal numbers"),
    "none": (lambda p: swap(p, "seg.codes", lambda a: a[:0]), "of shape N"),
    "scalar": (lambda p: swap(p, "seg.input", lambda a: np.float32(1)), "of shape N"),
    "many": (lambda p: swap(p, "seg.input", lambda a: np.repeat(a, 40, 0)), "of shape N"),
    "nan": (lambda p: swap(p, "seg.input", lambda a: a * np.float32(np.nan)), "holds NaN"),
    "other": (lambda p: p.samples.update(more=np.zeros(3)), "and no more"),
    "part": (lambda p: p.samples.pop("seg.float"), "and no more"),
}


def swap(p: Pieces, name: str, change: Callable[[np.ndarray], Any]) -> None:
    p.samples[name] = change(p.samples[name])


@pytest.mark.parametrize("name", SAMPLE_CHANGES)
def test_samples_that_break_a_rule_are_refused(name: str, tmp_path: Path) -> None:
    change, message = SAMPLE_CHANGES[name]
    made = pieces(0)
    change(made)
    made.write(tmp_path)
    assert message in refusal(tmp_path)


def test_bundle_without_samples_says_so(tmp_path: Path) -> None:
    made = pieces(0)
    made.samples.clear()
    made.write(tmp_path)
    with pytest.raises(UserError, match="holds no samples of task seg"):
        load_bundle(tmp_path).sample("seg", "input")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "link", "large", "gone"])
@pytest.mark.parametrize("name", [manifest.MANIFEST, manifest.IMAGE, manifest.ARRAYS])
def test_only_plain_files_are_read(kind: str, name: str, tmp_path: Path) -> None:
    pieces(0).write(tmp_path)
    path = tmp_path / name
    path.rename(tmp_path / "moved")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        path.touch()
        os.truncate(path, 1 << 42)
    elif kind != "gone":
        path.symlink_to("/dev/zero" if kind == "device" else "moved")
    done: list[str] = []
    thread = threading.Thread(target=lambda: done.append(refusal(tmp_path)), daemon=True)
    thread.start()
    thread.join(30)
    assert done and name in done[0], "reading it blocks"
    if kind == "fifo":
        assert "must be a plain file" in done[0]


def test_names_outside_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "in").mkdir()
    for name in ("../secret", "/etc/passwd", "..", ".", "", "in/x", "a\0b", "n" * 256):
        with pytest.raises(UserError):
            read_folder(tmp_path / "in", lambda folder, name=name: folder.read(name, 99))


def test_reader_of_a_replaced_folder_begins_again(tmp_path: Path) -> None:
    """Where there are no locks, what is read may be removed meanwhile."""
    where = tmp_path / "bundle"
    where.mkdir()
    (where / "a").write_text("old")
    seen = []

    def read(folder: folders.Folder) -> bytes:
        seen.append(folder.read("a", 9))
        if len(seen) == 1:
            where.rename(tmp_path / "old")
            where.mkdir()
            (where / "a").write_text("new")
            (tmp_path / "old" / "a").unlink()
        return folder.read("a", 9)

    assert read_folder(where, read) == b"new" and seen == [b"old", b"new"]
