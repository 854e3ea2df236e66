"""Refuses calibration samples that no scale can come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.ir import Graph
from moesaic.spec.errors import UserError
from moesaic.spec.hostside import check_frames


def check_samples(
    task: str, graph: Graph, samples: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """Return the samples of a task as float32 [n, *input_shape[1:]].

    Raises
    ------
    UserError
        They are missing, of another type or shape, none at all, not finite, or all one value.
    """
    given = {graph.input_name: samples[task]} if task in samples else {}
    array = check_frames(
        given, graph.input_name, graph.input_shape, task=repr(task), holder="the calibration"
    )
    what = f"calibration samples of input {graph.input_name!r} (task {task!r})"
    if array.min() == array.max():
        raise UserError(
            f"{what} must differ in their values, but all are {float(array.min())}:"
            " use samples of real inputs"
        )
    return array
