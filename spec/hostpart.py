"""The parts of a partitioned model that the host computes in front of the accelerator, to the
residual stream, and behind it, from its dequantised output.

ONNX Runtime runs them, frame by frame: the compiler
measures with exactly what a session runs. Importing this module needs numpy only.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.errors import UserError
from moesaic.spec.hostside import dequantise_outputs
from moesaic.spec.intgraph import IntGraph

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


class HostPart:
    """One task's part; opened when it is first needed. May be used by several threads.

    One thread computes and the order of its sums is fixed: equal inputs give equal bits, whatever
    device they come from and whatever else the host does.

    Parameters
    ----------
    model
        ONNX whose inputs are outputs of the accelerator, by name, or of a front the task's input.
    name
        How messages name it.
    outputs
        What a user of the task gets: names to shapes, the first axis a frame; None where that is
        to be found out. What the model does not deliver of it is the accelerator's.
    """

    def __init__(
        self, model: bytes, name: str, outputs: Mapping[str, tuple[int, ...] | None]
    ) -> None:
        self._model, self._name, self._outputs = model, name, outputs
        self._lock = threading.Lock()
        self._session: Any = None

    def open(self) -> None:
        """Load the model.

        Raises
        ------
        UserError
            ONNX Runtime is not installed, or refuses the model.
        """
        with self._lock:
            if self._session is None:
                self._session = self._load()

    def _load(self) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"{self._name} runs in ONNX Runtime, which is not installed here: "
                "pip install onnxruntime"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        try:
            session = onnxruntime.InferenceSession(
                self._model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class
            raise self._refusal(error) from error
        for source in session.get_inputs():
            if source.type not in _TYPES:
                raise self._refusal(f"its input {source.name!r} must be of floats")
            if not all(isinstance(length, int) and length > 0 for length in source.shape):
                raise self._refusal(f"its input {source.name!r} must have a fixed shape")
        names = {output.name for output in session.get_outputs()}
        if not names or not names <= set(self._outputs):
            raise self._refusal(f"it must deliver {', '.join(self._outputs)}")
        return session

    def _refusal(self, error: Exception | str) -> UserError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return UserError(f"ONNX Runtime cannot run {self._name} ({reason}): compile it again")

    def run(self, delivered: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Return its outputs by name, [frames, ...], for the accelerator's, [frames, ...].

        Raises
        ------
        UserError
            As :meth:`open`, or ONNX Runtime fails.
        """
        self.open()
        inputs: dict[str, NDArray[Any]] = {}
        for source in self._session.get_inputs():
            if source.name not in delivered:
                raise self._refusal(f"it takes {source.name!r}, which it is not given")
            frames = delivered[source.name]
            if prod(source.shape) != prod(frames.shape[1:]):
                raise self._refusal(f"it takes {source.shape}, not {frames.shape}")
            kind = _TYPES[source.type]
            inputs[source.name] = frames.astype(kind).reshape(len(frames), *source.shape)
        names = [output.name for output in self._session.get_outputs()]
        try:
            results = [
                self._session.run(names, dict(zip(inputs, frame, strict=True)))
                for frame in zip(*inputs.values(), strict=True)
            ]
            return {
                name: self._stacked(name, [arrays[index] for arrays in results])
                for index, name in enumerate(names)
            }
        except UserError:
            raise
        except Exception as error:
            raise self._refusal(error) from error

    def complete(
        self, delivered: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        """Return what a user of the task gets, in its order, for the accelerator's outputs.

        Raises
        ------
        UserError
            As :meth:`run`.
        """
        everything = {**delivered, **self.run(delivered)}
        if missing := sorted(set(self._outputs).difference(everything)):
            raise self._refusal(f"it must deliver {missing[0]}")
        return {name: everything[name] for name in self._outputs}

    def _stacked(self, name: str, arrays: list[NDArray[Any]]) -> NDArray[np.float32]:
        """One output of all frames, [frames, ...]."""
        result = np.stack([without_batch(array) for array in arrays]).astype(np.float32)
        wanted = self._outputs[name]
        if wanted is not None and result.shape[1:] != tuple(wanted[1:]):
            raise self._refusal(f"it delivers {result.shape}, not {wanted}")
        return result


def without_batch(array: NDArray[Any]) -> NDArray[Any]:
    """Return one frame of an ONNX model's output: without the batch axis of 1, if it has one."""
    return array[0] if array.shape[:1] == (1,) else array


def front_frames(
    front: HostPart | None, name: str, frames: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the accelerator's input [frames, ...] of the task's input ``name``; the same without a
    ``front``.

    Raises
    ------
    UserError
        The front cannot run, or its result is not finite.
    """
    if front is None:
        return frames
    ((_, result),) = front.run({name: frames}).items()
    if not np.isfinite(result).all():
        raise UserError("what the host computes in front of the accelerator is NaN or infinite")
    return result


def task_outputs(
    graph: IntGraph, codes: NDArray[np.int16], host_part: HostPart | None
) -> dict[str, NDArray[np.float32]]:
    """Return a task's outputs by name, [frames, ...], from output codes [frames, codes].

    Raises
    ------
    UserError
        The host's part cannot run.
    """
    delivered = dequantise_outputs(graph, codes)
    return delivered if host_part is None else host_part.complete(delivered)
