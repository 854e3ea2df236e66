"""The build cache: built once, never half, safe between processes."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from moesaic.spec.cache import cached, content_key, sources
from moesaic.spec.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESAIC_CACHE", str(tmp_path / "cache"))


def test_key_depends_on_content_and_boundaries() -> None:
    assert content_key(["ab", "c"]) == content_key(["ab", b"c"])
    assert (
        len({content_key(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"])}) == 4
    )


def test_second_request_does_not_build() -> None:
    builds = []

    def build(folder: Path) -> None:
        builds.append(folder)
        (folder / "result").write_text("done")

    first = cached("kind", "key", build)
    assert (first / "result").read_text() == "done"
    assert cached("kind", "key", build) == first
    assert cached("kind", "other", build) != first
    assert len(builds) == 2


def test_failed_build_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cached("kind", "key", fail)
    assert not [path for path in (tmp_path / "cache" / "kind").iterdir() if path.is_dir()]
    folder = cached("kind", "key", lambda folder: None)
    assert list(folder.iterdir()) == []


def test_place_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that is read-only, or none; what a build itself raises stays as it is."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOESAIC_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="file/kind cannot be written: .*MOESAIC_CACHE"):
        cached("kind", "key", lambda folder: None)
    monkeypatch.setenv("MOESAIC_CACHE", str(tmp_path / "cache"))

    def fail(folder: Path) -> None:
        raise PermissionError("mine")

    with pytest.raises(PermissionError, match="mine"):
        cached("kind", "key", fail)


def _build_slowly(folder: Path) -> None:
    with (folder / "log").open("a") as log:
        log.write("built\n")
    time.sleep(0.3)


def _request(_: int) -> str:
    return (cached("kind", "key", _build_slowly) / "log").read_text()


def test_parallel_processes_build_once() -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_request, range(4), chunksize=1) == ["built\n"] * 4


def test_folders_without_a_say_change_no_key() -> None:
    names = {name for name in sources("moesaic.hw") if isinstance(name, str)}
    left = {name for name in sources("moesaic.hw", without=("timing",)) if isinstance(name, str)}
    assert names - left == {name for name in names if name.startswith("timing/")} != set()
