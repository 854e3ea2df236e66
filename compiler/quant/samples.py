"""Calibration samples: refused where no scale can come from them, some set aside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.ir import Graph
from moesaic.spec.errors import UserError
from moesaic.spec.hostside import check_frames

FEWEST_TO_SPLIT = 8
"""Of fewer samples all are needed for calibration."""
HELD_OUT_EVERY = 4
VALUES = 200_000
"""What takes many runs is tried on so many values of the residual stream: a few frames of a large
model, all samples of a small one."""
LEAST_FRAMES = 4


def split_held_out(samples: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return samples for calibration, and every fourth to measure on; of few samples none."""
    if len(samples) < FEWEST_TO_SPLIT:
        return samples, samples[:0]
    aside = np.arange(len(samples)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return samples[~aside], samples[aside]


def spread(
    samples: NDArray[np.float32], values: int, least: int = LEAST_FRAMES
) -> NDArray[np.float32]:
    """As many samples as many runs can bear, evenly over all; ``values`` is what a frame has."""
    wanted = max(least, math.ceil(VALUES / values))
    return samples[:: math.ceil(len(samples) / wanted)]


def check_held_out(
    task: str, graph: Graph, held_out: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """Return the samples that a task is measured on; they may be all one value.

    Raises
    ------
    UserError
        They are missing, of another type or shape, none at all, or not finite.
    """
    given = {graph.input_name: held_out[task]} if task in held_out else {}
    return check_frames(
        given, graph.input_name, graph.input_shape, task=repr(task), holder="the held-out file"
    )


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
