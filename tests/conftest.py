"""A small model and its bundle, which tests of several folders share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import SMALL, make_models, moesaic


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Folder and arguments of a small two-task model."""
    folder = tmp_path_factory.mktemp("small")
    return folder, make_models(folder, SMALL, seed=1)


@pytest.fixture(scope="session")
def small_bundle(small_models: tuple[Path, list[str]]) -> Path:
    """A compiled bundle of it for the target nano."""
    folder, models = small_models
    bundle = folder / "bundle"
    done = moesaic(
        "compile", *models, "--target", "nano", "--calibrate", folder / "samples.npz", "-o", bundle
    )
    assert done.code == 0, done.err
    return bundle
