"""The examples do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str, *arguments: str | Path) -> str:
    """What it prints."""
    command = [sys.executable, EXAMPLES / f"{name}.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_torch_vit(tmp_path: Path) -> None:
    said = example("torch_vit", tmp_path)
    found = re.search(r"SQNR ([\d.]+) dB", said)
    assert found and float(found[1]) > 30, said
    assert "same class as torch: 100%" in said or "same class as torch: 9" in said


def test_read_profile(small_bundle: Path) -> None:
    said = example("read_profile", small_bundle, "seg")
    assert re.search(r"seg on nano: [\d,]+ cycles", said), said
    assert "matrix" in said and said.count("%") > 10


def test_accuracy_of_my_model(
    small_bundle: Path, small_models: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, _ = small_models
    with np.load(folder / "samples.npz") as samples:
        image = samples["image"]
    labels = np.zeros((len(image), *image.shape[2:]), np.int64)
    np.savez(tmp_path / "heldout.npz", image=image, seg=labels)
    said = example(
        "accuracy_of_my_model", small_bundle, "seg", folder / "seg.onnx", tmp_path / "heldout.npz"
    )
    assert re.search(r"equal: [\d.]+ in float, [\d.]+ in integers", said), said
    assert "the rounding that costs most is" in said


def test_serve_and_call(small_bundle: Path) -> None:
    said = example("serve_and_call", small_bundle, "seg")
    assert "seg on cpu" in said and "the same as without a server: True" in said


def test_drive_from_c(small_bundle: Path, tmp_path: Path) -> None:
    said = example("drive_from_c", small_bundle, tmp_path)
    assert said.count("bit-exact") == 2 and "cycles" in said


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_listed_in_their_readme(path: Path) -> None:
    assert f"[{path.name}]({path.name})" in (EXAMPLES / "README.md").read_text()
