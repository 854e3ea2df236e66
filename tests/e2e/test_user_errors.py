"""Whatever is wrong with the user's input: exit code 2, one sentence, nothing half-written."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from .conftest import Done, moesaic


def assert_refused(done: Done, *needles: str) -> None:
    """Exit code 2 and one line on stderr that holds all ``needles``."""
    assert done.code == 2, (done.code, done.out, done.err)
    text = " ".join(done.err.split())
    assert "Traceback" not in text
    for needle in needles:
        assert needle in text, text


@pytest.fixture
def compile_with(small_models: tuple[Path, list[str]], tmp_path: Path):  # type: ignore[no-untyped-def]
    """Compile the small model with some argument replaced, and check what is left behind."""
    folder, models = small_models

    def run(models: list[str] = models, target: str = "nano", samples: Path | None = None) -> Done:
        output = tmp_path / "bundle"
        calibration = samples or folder / "samples.npz"
        done = moesaic(
            "compile", *models, "--target", target, "--calibrate", calibration, "-o", output
        )
        assert not output.exists() and not list(tmp_path.glob(".*"))
        return done

    return run


def test_unknown_target(compile_with) -> None:  # type: ignore[no-untyped-def]
    assert_refused(compile_with(target="zcu999"), "zcu999", "zcu102")


def test_missing_model(compile_with, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert_refused(compile_with(models=[f"seg={tmp_path}/none.onnx"]), "none.onnx")


def test_not_onnx(compile_with, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "text.onnx"
    path.write_text("no model")
    assert_refused(compile_with(models=[f"seg={path}"]), "text.onnx")


def test_task_named_twice(compile_with, small_models: tuple[Path, list[str]]) -> None:  # type: ignore[no-untyped-def]
    model = small_models[1][0]
    assert_refused(compile_with(models=[model, model]), "given twice")


def test_unknown_rewrite(small_models: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, models = small_models
    options = [
        "--target",
        "nano",
        "--calibrate",
        folder / "samples.npz",
        "--without",
        "rotate,turn",
    ]
    done = moesaic("compile", *models, *options, "-o", tmp_path / "bundle")
    assert_refused(done, "--without takes rotate, centre", "not 'turn'")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("arrays", "needle"),
    [
        ({}, "needs the input 'image'; the calibration file has nothing"),
        ({"picture": np.zeros((1, 3, 32, 32), np.float32)}, "the calibration file has picture"),
        ({"image": np.zeros((1, 3, 32, 31), np.float32)}, "Nx3x32x32"),
        ({"image": np.zeros((0, 3, 32, 32), np.float32)}, "no frames"),
        ({"image": np.full((1, 3, 32, 32), np.nan, np.float32)}, "NaN"),
    ],
)
def test_bad_calibration(compile_with, tmp_path: Path, arrays: dict, needle: str) -> None:  # type: ignore[no-untyped-def, type-arg]
    np.savez(tmp_path / "bad.npz", **arrays)
    assert_refused(compile_with(samples=tmp_path / "bad.npz"), needle)


def test_calibration_is_no_npz(compile_with, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "bad.npz").write_text("text")
    assert_refused(compile_with(samples=tmp_path / "bad.npz"), "bad.npz")


def test_model_too_large(compile_with, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from moesaic.spec.presets import PRESETS

    small = {**PRESETS["nano"].to_dict(), "name": "crumb", "activation_bytes": 1024}
    (tmp_path / "crumb.json").write_text(json.dumps(small))
    done = compile_with(target=str(tmp_path / "crumb.json"))
    assert_refused(done, "does not fit target crumb")


def test_target_file_breaks_a_rule(compile_with, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from moesaic.spec.presets import PRESETS

    broken = {**PRESETS["nano"].to_dict(), "depth": 17}
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    assert_refused(compile_with(target=str(tmp_path / "broken.json")), "depth must be")


def test_output_is_something_else(small_models: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, models = small_models
    (tmp_path / "precious.txt").write_text("keep me")
    done = moesaic(
        "compile",
        *models,
        "--target",
        "nano",
        "--calibrate",
        folder / "samples.npz",
        "-o",
        tmp_path,
    )
    assert_refused(done, "is no bundle")
    assert (tmp_path / "precious.txt").read_text() == "keep me"


@pytest.mark.parametrize(
    ("output", "needle"),
    [("n" * 256, "File name too long"), ("/proc/bundle", "/proc/bundle"), ("file/b", "file/b")],
)
def test_output_that_cannot_be_written_is_refused_before_the_work(
    output: str, needle: str, small_models: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """The models are not even looked for."""
    (tmp_path / "file").write_text("keep me")
    samples = small_models[0] / "samples.npz"
    done = moesaic(
        "compile", "none.onnx", "--target", "nano", "--calibrate", samples, "-o", tmp_path / output
    )
    assert_refused(done, needle, "cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("option", "command"),
    [("--output", "run"), ("--output", "simulate"), ("--stats", "simulate"),
     ("--timeline", "simulate"), ("--trace", "simulate"), ("--stats", "verify"),
     ("--json", "accuracy")],
)  # fmt: skip
def test_answer_that_cannot_be_written_is_refused_before_the_work(
    option: str, command: str, small_bundle: Path, tmp_path: Path
) -> None:
    """A file system that is read-only to everybody; the simulator is not even built."""
    np.savez(tmp_path / "in.npz", image=np.zeros((1, 3, 32, 32), np.float32))
    files = {"--input": tmp_path / "in.npz", "--output": tmp_path / "out.npz", "--task": "seg"}
    if command == "verify":
        files = {}
    if command == "accuracy":
        files = {"--samples": tmp_path / "in.npz"}
    suffix = {"--output": "npz", "--trace": "vcd", "--picture": "png"}.get(option, "json")
    files[option] = Path(f"/proc/moesaic.{suffix}")
    arguments = [part for pair in files.items() for part in pair]
    started = time.monotonic()
    done = moesaic(command, small_bundle, *arguments)
    assert_refused(done, f"/proc/moesaic.{suffix} cannot be written")
    assert time.monotonic() - started < 60
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"]


def test_two_outputs_in_one_file_are_refused(small_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", image=np.zeros((1, 3, 32, 32), np.float32))
    same = tmp_path / "same.json"
    output = tmp_path / "out.npz"
    files = (
        "--input",
        tmp_path / "in.npz",
        "--output",
        output,
        "--stats",
        same,
        "--timeline",
        same,
    )
    twice = ("--stats", same, "--timeline", same)
    done = moesaic("simulate", small_bundle, "--task", "seg", *files, *twice)
    assert_refused(done, "must be different files")


def test_not_a_bundle(tmp_path: Path) -> None:
    assert_refused(moesaic("inspect", tmp_path), "is no bundle")


def test_deep_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 200_000)
    assert_refused(moesaic("inspect", tmp_path), "manifest.json is nested too deeply")


def test_foreign_format(small_bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((small_bundle / "manifest.json").read_text())
    manifest["format"] = 99
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(moesaic("verify", tmp_path), "format 99")


def test_foreign_architecture(small_bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((small_bundle / "manifest.json").read_text())
    manifest["arch"]["lanes"] = 8
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(moesaic("verify", tmp_path), "corrupt")


def test_unknown_task_and_device(small_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", image=np.zeros((1, 3, 32, 32), np.float32))
    files = ("--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    assert_refused(moesaic("run", small_bundle, "--task", "fly", *files), "'fly'", "seg")
    assert_refused(moesaic("run", small_bundle, *files), "several tasks")
    done = moesaic("run", small_bundle, "--task", "seg", "--device", "abacus", *files)
    assert_refused(done, "'abacus'")
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("arrays", "needle"),
    [
        ({"image": np.full((1, 3, 32, 32), np.inf, np.float32)}, "NaN or infinity"),
        ({"image": np.zeros((3, 32, 32), np.float32)}, "shape"),
        ({"x": np.zeros((1, 3, 32, 32), np.float32)}, "'image'"),
    ],
)
def test_bad_input(small_bundle: Path, tmp_path: Path, arrays: dict, needle: str) -> None:  # type: ignore[type-arg]
    np.savez(tmp_path / "in.npz", **arrays)
    files = ("--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    assert_refused(moesaic("run", small_bundle, "--task", "seg", *files), needle)
    assert not (tmp_path / "out.npz").exists()
