"""What :func:`moesaic.compiler.compile` may be given, as files and as arrays by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.frontend.model_file import (
    Model,
    export_module,
    is_module,
    is_proto,
    run_module,
    write_proto,
)
from moesaic.compiler.validate.oracle import run_onnx
from moesaic.spec.arrays import open_arrays
from moesaic.spec.errors import UserError
from moesaic.spec.hostside import check_frames

Samples = str | Path | Mapping[str, NDArray[Any]] | NDArray[Any]
"""An .npz file, arrays by ONNX input name, or the array of the models' only input."""
DEFAULT_TASK = "default"
_ONLY_INPUT = "input"
"""Name of the input of a module whose samples have none."""
_COMPARED, _TOLERANCE = 2, 1e-3


class OneArray(Mapping[str, NDArray[Any]]):
    """Samples without a name: the input of every model, whatever it is called there."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._array

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


def read_samples(given: Any, argument: str) -> Mapping[str, NDArray[Any]]:
    """Arrays by input name from what an argument may be.

    Raises
    ------
    UserError
        It is something else, or a file that cannot be read.
    """
    if isinstance(given, Mapping):
        return given
    if isinstance(given, (str, os.PathLike)):
        return open_arrays(Path(given))
    if isinstance(given, np.ndarray) or hasattr(given, "__array__"):
        return OneArray(np.asarray(given))
    raise UserError(
        f"{argument} must be an .npz file, arrays by input name, or one array, not a"
        f" {type(given).__name__}"
    )


def read_tasks(given: Any) -> dict[str, Any]:
    """Models by task; one without a name is the task ``default``.

    Raises
    ------
    UserError
        There is none, a name is none, or something is no model.
    """
    tasks = dict(given) if isinstance(given, Mapping) else {DEFAULT_TASK: given}
    if not tasks:
        raise UserError("no model given: name at least one TASK=FILE.onnx")
    for name, model in tasks.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(f"task name must be letters, digits and underscores, not {name!r}")
        if not (isinstance(model, (str, os.PathLike)) or is_proto(model) or is_module(model)):
            raise UserError(
                f"the model of task {name!r} must be an ONNX file, an onnx.ModelProto or a"
                f" torch.nn.Module, not a {type(model).__name__}"
            )
    return tasks


def read_path(given: Any, argument: str) -> Path:
    """A path, refusing what is none."""
    if isinstance(given, (str, os.PathLike)):
        return Path(given)
    raise UserError(f"{argument} must be a path, not a {type(given).__name__}")


def model_files(
    tasks: Mapping[str, Model], samples: Mapping[str, NDArray[Any]], folder: Path
) -> dict[str, Path]:
    """Every model as a file; those that are none are written into ``folder``.

    Raises
    ------
    UserError
        A model cannot be written or exported.
    """
    files = {}
    for name, model in tasks.items():
        if isinstance(model, (str, os.PathLike)):
            files[name] = Path(model)
            continue
        files[name] = folder / f"{name}.onnx"
        if is_proto(model):
            write_proto(model, files[name])
        else:
            _export(name, model, samples, files[name])
    return files


def _export(task: str, module: Any, samples: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Export a module for the first sample, and see that the file computes what it does."""
    names = [_ONLY_INPUT] if isinstance(samples, OneArray) else list(samples)
    if len(names) != 1:
        raise UserError(
            f"task {task!r} is a torch module: give the samples of its one input, not"
            f" {', '.join(names) or 'nothing'}"
        )
    shape = (1, *np.shape(samples[names[0]])[1:])
    frames = check_frames(samples, names[0], shape, task=task, holder="the calibration")[:_COMPARED]
    frames = np.ascontiguousarray(frames)
    export_module(module, names[0], frames[:1], path)
    wanted, found = run_module(module, frames), run_onnx(path, names[0], frames)
    peak = float(np.abs(wanted).max())
    if wanted.shape != found.shape or not np.abs(wanted - found).max() <= _TOLERANCE * peak:
        raise UserError(
            f"the module of task {task!r} computes something else once torch has exported it:"
            " its result must depend on its input only; export it by hand and give the file"
        )
