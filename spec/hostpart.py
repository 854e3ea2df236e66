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
from moesaic.spec.hostside import dequantise_output
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
        ONNX with one input: the accelerator's output tensor, or of a front the task's input.
    name
        How messages name it.
    outputs
        What it must deliver: names to shapes, the first axis a frame. Not given where that is
        what is to be found out.
    """

    def __init__(
        self, model: bytes, name: str, outputs: Mapping[str, tuple[int, ...]] | None = None
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
        sources = session.get_inputs()
        if len(sources) != 1 or sources[0].type not in _TYPES:
            raise self._refusal("it must have one input, of floats")
        if not all(isinstance(length, int) and length > 0 for length in sources[0].shape):
            raise self._refusal("its input must have a fixed shape")
        names = {output.name for output in session.get_outputs()}
        if self._outputs is not None and names != set(self._outputs):
            raise self._refusal(f"it must deliver {', '.join(self._outputs)}")
        return session

    def _refusal(self, error: Exception | str) -> UserError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return UserError(f"ONNX Runtime cannot run {self._name} ({reason}): compile it again")

    def run(self, frames: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return all outputs by name, [frames, ...], for its input [frames, ...].

        Raises
        ------
        UserError
            As :meth:`open`, or ONNX Runtime fails.
        """
        self.open()
        (source,) = self._session.get_inputs()
        if prod(source.shape) != prod(frames.shape[1:]):
            raise self._refusal(f"it takes {source.shape}, not {frames.shape}")
        inputs = frames.astype(_TYPES[source.type]).reshape(len(frames), *source.shape)
        names = [output.name for output in self._session.get_outputs()]
        try:
            results = [self._session.run(names, {source.name: frame}) for frame in inputs]
            return {
                name: self._stacked(name, [arrays[index] for arrays in results])
                for index, name in enumerate(names)
            }
        except UserError:
            raise
        except Exception as error:
            raise self._refusal(error) from error

    def _stacked(self, name: str, arrays: list[NDArray[Any]]) -> NDArray[np.float32]:
        """One output of all frames, [frames, ...]."""
        result = np.stack([without_batch(array) for array in arrays]).astype(np.float32)
        if self._outputs is not None and result.shape[1:] != tuple(self._outputs[name][1:]):
            raise self._refusal(f"it delivers {result.shape}, not {self._outputs[name]}")
        return result


def without_batch(array: NDArray[Any]) -> NDArray[Any]:
    """Return one frame of an ONNX model's output: without the batch axis of 1, if it has one."""
    return array[0] if array.shape[:1] == (1,) else array


def front_frames(front: HostPart | None, frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the accelerator's input [frames, ...] of the task's; the same without a ``front``.

    Raises
    ------
    UserError
        The front cannot run, or its result is not finite.
    """
    if front is None:
        return frames
    ((_, result),) = front.run(frames).items()
    if not np.isfinite(result).all():
        raise UserError("what the host computes in front of the accelerator is NaN or infinite")
    return result


def task_outputs(
    graph: IntGraph, codes: NDArray[np.int16], host_part: HostPart | None
) -> dict[str, NDArray[np.float32]]:
    """Return a task's outputs by name, [frames, ...], from output codes [frames, rows, outputs].

    Raises
    ------
    UserError
        The host's part cannot run.
    """
    delivered = dequantise_output(graph, codes)
    if host_part is None:
        return {graph.output_name: delivered}
    return host_part.run(delivered)
