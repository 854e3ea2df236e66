"""Standard output that is full, closed, or of another encoding; names that look like markup."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.here import moesaic_here


def written_to(stdout: int, *words: str, **environment: str) -> tuple[int, str]:
    """Exit code and stderr of a command whose output goes to ``stdout``."""
    done = subprocess.run(
        [sys.executable, "-m", "moesaic.cli", *words],
        stdout=stdout, stderr=subprocess.PIPE, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["--help", "--version", "targets", "targets --json"])
def test_full_standard_output_is_one_sentence(words: str, unbuffered: str) -> None:
    """Through typer, print and rich: what they write may be noticed at once or at the end."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        code, said = written_to(full, *words.split(), PYTHONUNBUFFERED=unbuffered)
    finally:
        os.close(full)
    assert (code, said.splitlines()) == (
        2, ["moesaic: standard output cannot be written: No space left on device"]
    )  # fmt: skip


@pytest.mark.parametrize("words", [["targets"], ["targets", "--show", "nano"]])
def test_reader_that_has_gone_is_told_nothing(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert written_to(writing, *words, PYTHONUNBUFFERED="") == (1, "")
    finally:
        os.close(writing)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_name_that_an_encoding_has_not_is_escaped(
    small_bundle: Path, tmp_path: Path, encoding: str
) -> None:
    """Letters that ASCII lacks, and a byte that UTF-8 has not."""
    link = os.fsdecode(os.fsencode(tmp_path) + b"/m\xc3\xb6e\xff")
    os.symlink(small_bundle, link)
    with open(os.devnull, "w") as nothing:
        code, said = written_to(nothing.fileno(), "inspect", link, PYTHONIOENCODING=encoding)
    assert (code, said) == (0, "")


@pytest.mark.parametrize("name", ["run[bold]", "run[/b]x"])
def test_name_is_no_markup(
    name: str, small_models: tuple[Path, list[str]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder, models = small_models
    output = tmp_path / name
    done = moesaic_here(
        capsys, monkeypatch, "compile", models[0], "--target", "nano",
        "--calibrate", folder / "samples.npz", "-o", output,
    )  # fmt: skip
    assert done.code == 0 and f"wrote {output}: " in done.err
    assert "a frame if DRAM sustains of its ports' peak 90%" in done.err and "; 45% (" in done.err
    done = moesaic_here(capsys, monkeypatch, "inspect", output)
    assert done.code == 0 and f"{name}: nano" in done.out
