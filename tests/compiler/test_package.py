"""Bundles are put in their place whole, whoever is killed and whoever else writes or reads.

``BUNDLE_KILLS``, ``BUNDLE_ROUNDS`` and ``BUNDLE_READERS`` make the runs longer.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from moesaic.compiler.package import BundlePlace, place, write_directory
from moesaic.spec import folder as folders
from moesaic.spec.bundle import load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.manifest import MANIFEST
from moesaic.spec.staging import PREFIX
from tests.compiler.bundle_workers import forked, reader, writer
from tests.spec.bundle_pieces import pieces

KILLS = int(os.environ.get("BUNDLE_KILLS", "30"))
ROUNDS = int(os.environ.get("BUNDLE_ROUNDS", "60"))
READERS = int(os.environ.get("BUNDLE_READERS", "3"))
WRITERS = 3


def beside(where: Path) -> list[str]:
    """What lies in the folder besides the bundle."""
    return sorted(path.name for path in where.parent.iterdir() if path != where)


def source(where: Path) -> str:
    """Which version of the bundle is there."""
    found: str = load_bundle(where).report["tasks"]["seg"]["source"]
    return found


@pytest.fixture
def files() -> dict[str, bytes]:
    return pieces(0).files()


def test_killed_writers_leave_nothing_behind(tmp_path: Path, files: dict[str, bytes]) -> None:
    where, rng, left = tmp_path / "bundle", random.Random(1), 0
    versions = [files, pieces(1).files()]
    write_directory(where, files)
    for _ in range(KILLS):
        with forked(writer(where, versions), 10**9) as process:
            assert process.says.readline() == b"done\n"
            time.sleep(rng.uniform(0, 0.05))
        left += len(beside(where))
        load_bundle(where)
    print(f"{KILLS} writers killed, {left} folders were left behind for the next one")
    write_directory(where, files)
    assert beside(where) == []
    assert left, "no writer was killed while it wrote"


def test_writers_and_readers_do_not_disturb_each_other(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    where = tmp_path / "bundle"
    versions = [files, pieces(1).files()]
    write_directory(where, files)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(forked(reader(where), 10**9)) for _ in range(READERS)]
        writers = [
            stack.enter_context(forked(writer(where, versions), ROUNDS)) for _ in range(WRITERS)
        ]
        written = [line for process in writers for line in process.says]
        for process in readers:
            os.kill(process.pid, signal.SIGKILL)
        read = [line for process in readers for line in process.says]
    print(f"{len(written)} writes by {WRITERS}, {len(read)} reads by {READERS}")
    assert written == [b"done\n"] * (WRITERS * ROUNDS), set(written)
    assert read and set(read) == {b"done\n"}, set(read)
    write_directory(where, files)
    assert beside(where) == []


def test_last_one_wins(tmp_path: Path, files: dict[str, bytes]) -> None:
    where, other = tmp_path / "bundle", pieces(0)
    for task in ("seg", "depth"):
        other.manifest["report"]["tasks"][task]["source"] = "other.onnx"
    with BundlePlace(where) as first, BundlePlace(where) as second:
        assert len(beside(where)) == 2
        second.fill(files)
        assert source(where) == "model.onnx"
        first.fill(other.files())
        assert source(where) == "other.onnx"
    assert beside(where) == []


def test_old_bundle_stays_while_it_is_read(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "_READERS_SECONDS", 0.1)
    where = tmp_path / "bundle"
    write_directory(where, files)

    def replace_and_read(opened: folders.Folder) -> bytes:
        write_directory(where, pieces(1).files())
        (old,) = beside(where)
        assert old.startswith(PREFIX)
        return opened.read(MANIFEST, 1 << 20)

    assert folders.read_folder(where, replace_and_read) == files[MANIFEST]
    write_directory(where, files)
    assert beside(where) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_link_is_written_through(
    exchange: bool, tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:  # a file system that cannot exchange folders

        def refuse(source: Path, target: Path, flags: int) -> None:
            raise OSError(22, "Invalid argument")

        monkeypatch.setattr(place, "_rename", refuse)
    real, link = tmp_path / "real" / "bundle", tmp_path / "link"
    real.parent.mkdir()
    link.symlink_to(real)
    for number in (0, 1, 0):  # the link's end is missing at first
        write_directory(link, pieces(number).files())
        assert link.is_symlink() and not real.is_symlink()
        assert bool(load_bundle(real).host_parts) == bool(number)
    assert os.listdir(real.parent) == ["bundle"]
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_places_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("keep")
    (tmp_path / "loop").symlink_to("loop")
    wrong = {
        tmp_path / "file": "is no bundle",
        tmp_path / "full": "is no bundle",
        tmp_path / "file" / "bundle": "Not a directory",
        tmp_path / ("n" * 256): "File name too long",
        tmp_path / "new" / ("n" * 256): "File name too long",
        tmp_path / "loop": "Too many levels of symbolic links|is no bundle",
        Path("/proc/bundle"): "No such file or directory|Permission denied",
        Path("a\0b"): "null byte",
    }
    before = sorted(tmp_path.rglob("*"))
    for path, message in wrong.items():
        with pytest.raises(UserError, match=message) as caught:
            BundlePlace(path)
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_stays_of_work_that_failed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), BundlePlace(tmp_path / "new" / "bundle"):
        assert (tmp_path / "new").is_dir()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_longest_name_can_be_written(tmp_path: Path, files: dict[str, bytes]) -> None:
    where = tmp_path / ("n" * 255)
    write_directory(where, files)
    write_directory(where, files)
    assert load_bundle(where).tasks and beside(where) == []


def test_full_disk_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as it is known how much will be written."""
    room = shutil.disk_usage(tmp_path).free
    with BundlePlace(tmp_path / "bundle", room // 2):
        pass
    with pytest.raises(UserError, match="bundle cannot be written: No space left on device"):
        BundlePlace(tmp_path / "bundle", 4 * room)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("lost", ["full", "taken"])
def test_bundle_is_kept_when_its_place_is_lost(
    lost: str, tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the end, or somebody has put something else there."""
    where, elsewhere = tmp_path / "bundle", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))

    def full(source: Path, target: Path, flags: int) -> None:
        raise OSError(28, "No space left on device")

    with BundlePlace(where) as opened:
        if lost == "full":
            monkeypatch.setattr(place, "_rename", full)
        else:
            where.mkdir()
            (where / "notes.txt").write_text("keep")
        with pytest.raises(UserError, match="it is kept as (.*)$") as caught:
            opened.fill(files)
        kept = Path(str(caught.value).rpartition("it is kept as ")[2])
        assert load_bundle(kept).tasks and kept.parent.parent == elsewhere
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
        with pytest.raises(UserError, match="nor could it be kept elsewhere"):
            opened.fill(files)
    assert sorted(os.listdir(tmp_path)) == sorted({"elsewhere", *(["bundle"] * (lost == "taken"))})


def test_whether_a_bundle_is_replaced_is_known(tmp_path: Path, files: dict[str, bytes]) -> None:
    with BundlePlace(tmp_path / "bundle") as opened:
        assert not opened.replaces
        opened.fill(files)
    with BundlePlace(tmp_path / "bundle") as again:
        assert again.replaces
