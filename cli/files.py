"""Files that the commands read and write."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from moesaic.spec.errors import UserError


def read_arrays(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise UserError(f"input file {path} cannot be read as .npz: {error}") from error


def write_beside(path: Path, write: Any) -> None:
    """Write a file under another name and rename it, so that a half-written one never shows."""
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            write(file)
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    write_beside(path, lambda file: np.savez_compressed(file, **arrays))


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    write_beside(path, lambda file: file.write(json.dumps(value, indent=indent).encode()))
