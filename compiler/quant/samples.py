"""Refuses calibration samples that no scale can come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.ir import Graph
from moesaic.spec.errors import UserError


def check_samples(
    task: str, graph: Graph, samples: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """Return the samples of a task as float32 [n, *input_shape[1:]].

    Raises
    ------
    UserError
        They are missing, of another type or shape, none at all, not finite, or all one value.
    """
    if task not in samples:
        raise UserError(
            f"calibration samples must be given for task {task!r} (input {graph.input_name!r}):"
            " add them"
        )
    array = np.asarray(samples[task])
    what = f"calibration samples of input {graph.input_name!r} (task {task!r})"
    shape = tuple(graph.input_shape[1:])
    if array.dtype.kind not in "fiu" or array.ndim == 0 or array.shape[1:] != shape:
        wanted = " x ".join(map(str, ("samples", *shape)))
        raise UserError(
            f"{what} must be numbers of shape {wanted}, not {array.dtype} of shape {array.shape}"
        )
    if len(array) == 0:
        raise UserError(f"{what} must hold at least one sample, not none")
    array = array.astype(np.float32)
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(1)
    if bad.any():
        raise UserError(
            f"{what} must be finite, but sample {int(bad.argmax())} holds NaN or infinity"
        )
    if array.min() == array.max():
        raise UserError(
            f"{what} must differ in their values, but all are {float(array.min())}:"
            " use samples of real inputs"
        )
    return array
