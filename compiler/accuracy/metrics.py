"""What outputs are worth against labels: known metrics, or a function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.errors import UserError

Metric = Callable[[NDArray[np.float32], NDArray[Any]], float]
"""``metric(outputs, labels)``: outputs [frames, ...] of a task."""


def top1(outputs: NDArray[np.float32], labels: NDArray[Any]) -> float:
    """Share of frames whose largest output [frames, classes] is the labelled one [frames]."""
    scores = outputs.reshape(len(outputs), -1)
    _same_shape(scores.argmax(1), labels, "top1")
    return float((scores.argmax(1) == labels).mean())


def miou(outputs: NDArray[np.float32], labels: NDArray[Any]) -> float:
    """Mean over classes of intersection over union; outputs [frames, classes, ...], labels
    [frames, ...] integers. Classes that neither has do not count, nor does a place whose label is
    no class (255, as a rule)."""
    found = outputs.argmax(1)
    _same_shape(found, labels, "miou")
    if labels.dtype.kind not in "iu":
        raise UserError(f"labels of miou must be whole numbers, not {labels.dtype}")
    labelled = (labels >= 0) & (labels < outputs.shape[1])
    if not labelled.any():
        raise UserError(
            f"labels of miou must be classes, 0 to {outputs.shape[1] - 1}; they are"
            f" {labels.min()} to {labels.max()}"
        )
    found, labels = found[labelled], labels[labelled]
    shares = []
    for number in range(outputs.shape[1]):
        both = ((found == number) & (labels == number)).sum()
        either = ((found == number) | (labels == number)).sum()
        if either:
            shares.append(both / either)
    return float(np.mean(shares))


def rmse(outputs: NDArray[np.float32], labels: NDArray[Any]) -> float:
    """Root of the mean squared difference; an axis of 1 may be missing in the labels."""
    if outputs.size != labels.size:
        _same_shape(outputs, labels, "rmse")
    if labels.dtype.kind not in "iuf" or not np.isfinite(labels).all():
        raise UserError("labels of rmse must be finite numbers")
    difference = outputs.astype(np.float64).reshape(labels.shape) - labels
    return float(np.sqrt((difference**2).mean()))


METRICS: dict[str, Metric] = {"top1": top1, "miou": miou, "rmse": rmse}


def find_metric(name: str) -> Metric:
    """A metric by its name, or ``FILE.py:FUNCTION``.

    Raises
    ------
    UserError
        There is no such metric, file or function.
    """
    if name in METRICS:
        return METRICS[name]
    path, separator, function = name.rpartition(":")
    if not separator or not path.endswith(".py"):
        raise UserError(f"--metric takes {', '.join(METRICS)} or FILE.py:FUNCTION, not {name!r}")
    module = ModuleType("user_metric")
    module.__file__ = path
    try:
        # Not by an importer: it would take stale bytecode for a file that was changed this second.
        exec(compile(Path(path).read_bytes(), path, "exec"), vars(module))
        found: Metric = getattr(module, function)
    except (Exception, SystemExit) as error:
        raise UserError(_failed(name, error)) from error

    def checked(outputs: NDArray[np.float32], labels: NDArray[Any]) -> float:
        try:
            return float(found(outputs, labels))
        except (Exception, SystemExit) as error:  # it is the user's
            raise UserError(_failed(name, error)) from error

    return checked


def _failed(metric: str, error: BaseException) -> str:
    return f"--metric {metric}: {type(error).__name__}: {' '.join(str(error).split())}"


def _same_shape(outputs: NDArray[Any], labels: NDArray[Any], metric: str) -> None:
    if outputs.shape != labels.shape:
        raise UserError(
            f"labels of {metric} must have the shape {outputs.shape}, not {labels.shape}"
        )
