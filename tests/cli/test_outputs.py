"""What the command line writes: under names that fit, and whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesaic.spec.errors import UserError
from tests.cli.here import moesaic_here
from tests.e2e.test_user_errors import assert_refused


@pytest.mark.parametrize(
    ("command", "option", "name", "ending"),
    [
        ("run", "--output", "out.txt", ".npz"),
        ("run", "--output", "out", ".npz"),
        ("run", "--output", "-", ".npz"),
        ("simulate", "--output", "out.npy", ".npz"),
        ("simulate", "--stats", "s.npz", ".json"),
        ("simulate", "--timeline", "t.txt", ".json"),
        ("simulate", "--trace", "w.json", ".fst or .vcd or .saif"),
        ("verify", "--stats", "-", ".json"),
        ("accuracy", "--json", "a.png", ".json"),
        ("accuracy", "--picture", "a.json", ".png"),
    ],
)
def test_name_that_says_something_else_is_refused(
    command: str,
    option: str,
    name: str,
    ending: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything else is looked at: neither bundle nor input is there."""
    files = {"--input": "none.npz", "--output": tmp_path / "out.npz"}
    files = {"verify": {}, "accuracy": {"--samples": "none.npz"}}.get(command, files)
    files[option] = name if name == "-" else tmp_path / name
    done = moesaic_here(
        capsys,
        monkeypatch,
        command,
        tmp_path / "none",
        *(part for pair in files.items() for part in pair),
    )
    assert_refused(done, f"{option} must end in {ending}, not '{name}'")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("there", [True, False])
def test_bundle_that_will_be_replaced_is_named(
    there: bool, small_models: tuple[Path, list[str]], small_bundle: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Before the work, so that who did not mean it can stop."""

    def stop(*arguments: object) -> None:
        raise UserError("enough")

    monkeypatch.setattr("moesaic.compiler.driver.load_graph", stop)
    output = small_bundle if there else tmp_path / "b"
    before = (small_bundle / "manifest.json").read_bytes()
    samples = small_models[0] / "samples.npz"
    words = ("--target", "nano", "--calibrate", samples, "-o", output)
    done = moesaic_here(capsys, monkeypatch, "compile", small_models[1][0], *words)
    assert done.code == 2 and "enough" in done.err
    assert (f"{output} holds a bundle, which will be replaced" in done.err) == there
    assert (small_bundle / "manifest.json").read_bytes() == before
