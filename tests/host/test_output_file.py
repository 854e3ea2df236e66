"""Files that commands write: refused before the work, never half-written, never lost."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from moesaic.host import output_file
from moesaic.host.output_file import OutputFile, check_writable, write_all
from moesaic.spec import staging
from moesaic.spec.arrays import open_arrays
from moesaic.spec.errors import UserError

ARRAYS = {"y": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_arrays_and_json_are_written(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "new" / "out.npz") as file, OutputFile(tmp_path / "s.json") as text:
        file.write_arrays(ARRAYS)
        text.write_json({"cycles": [3]})
    assert np.array_equal(open_arrays(tmp_path / "new" / "out.npz")["y"], ARRAYS["y"])
    assert json.loads((tmp_path / "s.json").read_text()) == {"cycles": [3]}
    assert sorted(os.listdir(tmp_path)) == ["new", "s.json"]
    assert os.listdir(tmp_path / "new") == ["out.npz"]


def test_nothing_changes_until_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "out.npz").write_text("before")
    with OutputFile(tmp_path / "out.npz"), pytest.raises(ZeroDivisionError):
        raise ZeroDivisionError
    check_writable(tmp_path / "more" / "trace.vcd")
    assert os.listdir(tmp_path) == ["out.npz"]
    assert (tmp_path / "out.npz").read_text() == "before"


def test_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real.npz")
    with OutputFile(tmp_path / "link") as file:
        file.write_arrays(ARRAYS)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real.npz").is_file()


def test_places_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    os.mkfifo(tmp_path / "pipe")
    wrong = {
        tmp_path: "no plain file",
        tmp_path / "pipe": "no plain file",
        Path("/dev/null"): "no plain file",
        tmp_path / "file" / "out.npz": "Not a directory",
        tmp_path / ("n" * 256): "File name too long",
        tmp_path / "new" / ("n" * 256): "File name too long",
        Path("/proc/out.npz"): "No such file or directory|Permission denied",
        Path("a\0b"): "null byte",
    }
    before = sorted(tmp_path.rglob("*"))
    for path, message in wrong.items():
        with pytest.raises(UserError, match=message) as caught:
            OutputFile(path)
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_answer_is_kept_when_its_place_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    monkeypatch.setattr(output_file.os, "replace", full)
    with OutputFile(tmp_path / "out.npz") as file:
        with pytest.raises(UserError, match="No space left.*it is kept as (.*)$") as caught:
            file.write_arrays(ARRAYS)
        kept = Path(str(caught.value).rpartition("it is kept as ")[2])
        assert np.array_equal(open_arrays(kept)["y"], ARRAYS["y"])
        assert elsewhere in kept.parents and kept.name == "out.npz"
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
        with pytest.raises(UserError, match="nor could it be kept elsewhere"):
            file.write_arrays(ARRAYS)
    assert os.listdir(tmp_path) == ["tmp"]


def test_full_disk_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files can be made on it, but nothing fits into them."""
    written = os.write

    def short(descriptor: int, data: bytes) -> int:
        return written(descriptor, data[:100])

    monkeypatch.setattr(staging.os, "write", short)
    with pytest.raises(UserError, match="out.npz cannot be written: No space left on device"):
        OutputFile(tmp_path / "new" / "out.npz")
    assert not os.listdir(tmp_path)


def test_files_do_not_wait_for_one_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def lost(source: Path, target: Path) -> None:
        if target.suffix == ".npz":
            raise OSError(30, "Read-only file system")
        replace(source, target)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    monkeypatch.setattr(output_file.os, "replace", lost)
    with OutputFile(tmp_path / "out.npz") as file, OutputFile(tmp_path / "s.json") as text:
        with pytest.raises(UserError, match="out.npz cannot be written: Read-only file system"):
            write_all(lambda: file.write_arrays(ARRAYS), lambda: text.write_json([1]))
    assert os.listdir(tmp_path) == ["s.json"]
