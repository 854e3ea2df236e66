"""What the host does around the accelerator: quantise and lay out inputs, scale outputs.

Float arithmetic happens here only, in float64 numpy, the same for every device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.arrays import Archive
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import InputCodes, IntGraph, IntTokens

_CONVERT = "give numbers in the range that the model was trained on, by array.astype(numpy.float32)"


def check_frames(
    inputs: Mapping[str, NDArray[Any]],
    name: str,
    shape: Sequence[int],
    *,
    task: str,
    holder: str = "the file",
) -> NDArray[np.float32]:
    """Return the input ``name`` as float32 [frames, *shape[1:]], or refuse it.

    Of an archive nothing is unpacked that its header shows to be wrong.

    Parameters
    ----------
    inputs
        Arrays by name, a leading axis of frames.
    name, shape
        Of the input in the model, the batch axis first.
    task, holder
        Who needs it and who should have it, for messages.

    Raises
    ------
    UserError
        It is missing, has another type or shape or no frames, or holds values that are not finite
        as float32.
    """
    if name not in inputs:
        have = ", ".join(sorted(inputs)) or "nothing"
        raise UserError(f"task {task} needs the input {name!r}; {holder} has {have}")
    found: Any = inputs.entries[name] if isinstance(inputs, Archive) else None
    if found is None:
        try:
            found = np.asarray(inputs[name])
        except ValueError as error:  # lists of unequal lengths
            raise UserError(f"input {name!r} of task {task} is no array: {error}") from error
    if found.dtype.kind not in "fiu":
        raise UserError(
            f"input {name!r} of task {task} must be float32, not {found.dtype}: {_CONVERT}"
        )
    if not found.shape or tuple(found.shape[1:]) != tuple(shape[1:]):
        want, have = ("x".join(map(str, sizes)) for sizes in (shape[1:], found.shape))
        raise UserError(
            f"input {name!r} of task {task} must have the shape Nx{want}, not {have or 'none'}"
        )
    if not found.shape[0]:
        raise UserError(f"input {name!r} of task {task} has no frames; give at least one")
    with np.errstate(over="ignore"):  # what float32 does not hold is infinite, and refused
        given = inputs[name] if isinstance(inputs, Archive) else found
        array: NDArray[np.float32] = given.astype(np.float32)
    finite = np.isfinite(array.reshape(len(array), -1)).all(1)
    if not finite.all():
        raise UserError(
            f"input {name!r} of task {task} must be finite, but frame {int(finite.argmin())} holds"
            " NaN or infinity; clean the samples"
        )
    return array


def task_frames(
    known: Mapping[str, Mapping[str, tuple[int, ...]]],
    task: str,
    inputs: Mapping[str, NDArray[Any]],
) -> NDArray[np.float32]:
    """Return a task's input [frames, ...], refusing all that is an input of no task.

    Parameters
    ----------
    known
        Of all tasks the input's name and shape: inputs of the others may be there, so that one
        file can serve all.
    task
        That runs.
    inputs
        Arrays by name.

    Raises
    ------
    UserError
        As :func:`check_frames`, or an array is of no task: a misspelt one would be ignored.
    """
    ((name, shape),) = known[task].items()
    frames = check_frames(inputs, name, shape, task=task, holder="the input")
    names = sorted({name for of_task in known.values() for name in of_task})
    if unknown := sorted(map(str, set(inputs).difference(names))):
        raise UserError(
            f"task {task} has no input {', '.join(map(repr, unknown))}: leave out all but"
            f" {', '.join(names)}"
        )
    return frames


def quantise_input(graph: IntGraph, x: NDArray[np.float32]) -> InputCodes:
    """Host-side input layout and quantisation: [frames, ...] float to [frames, patches, inputs],
    int16 where the input is the first residual, else int8."""
    kind = np.int16 if isinstance(graph.embed, IntTokens) else np.int8
    limits = np.iinfo(kind)
    codes = np.floor(np.asarray(x, np.float64) / graph.input_scale + 0.5) + graph.input_zero
    codes = np.clip(codes, limits.min, limits.max).astype(kind)
    return codes.reshape(len(codes), -1)[:, graph.gather]


def same_codes(one: IntGraph, other: IntGraph) -> bool:
    """Return whether :func:`quantise_input` gives the same for both, whatever the frames are."""
    return (
        one.input_name == other.input_name
        and tuple(one.input_shape) == tuple(other.input_shape)
        and (one.input_scale, one.input_zero) == (other.input_scale, other.input_zero)
        and isinstance(one.embed, IntTokens) == isinstance(other.embed, IntTokens)
        and np.array_equal(one.gather, other.gather)
    )


def dequantise_outputs(graph: IntGraph, codes: NDArray[np.int16]) -> dict[str, NDArray[np.float32]]:
    """Host-side scaling and layout of outputs: [frames, codes] to float32 [frames, ...] by name."""
    results = {}
    for head, part in zip(graph.heads, graph.split_codes(codes), strict=True):
        flat = part.reshape(len(codes), -1)[:, head.permutation.reshape(-1)]
        scaled = (flat.astype(np.float64) * head.scale).astype(np.float32)
        results[head.name] = scaled.reshape(len(codes), *head.shape[1:])
    return results
