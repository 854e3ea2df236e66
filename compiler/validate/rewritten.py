"""Models that were rewritten before they were read, beside the files that they come from.

Another opset, one frame instead of a fixed batch: each is a change of the file that could go wrong,
and none is trusted. Both run in ONNX Runtime on the same samples. The
frames of a batch all differ, so a model whose frames depend on each other is found, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from moesaic.compiler.frontend.load import Rewritten
from moesaic.spec.errors import UserError

CLOSE = 1e-3
"""Of the largest value of a frame: far more than rounding, far less than another function."""
ROUNDINGS = 32
"""Of a shorter type, where those are more."""
_TYPES: dict[str, type[np.floating[Any]]] = {
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


class Original:
    """A file as it lies, and what it was rewritten to.

    Parameters
    ----------
    path, rewritten
        The file, and what became of it.
    input_name, output_names
        Of both.

    Raises
    ------
    UserError
        ONNX Runtime refuses one of them.
    """

    def __init__(
        self, path: Path, rewritten: Rewritten, input_name: str, output_names: list[str]
    ) -> None:
        self._path, self._rewritten = path, rewritten
        self._input, self._outputs = input_name, output_names
        self._file = self._open(str(path))
        self._type = _TYPES.get(self._file.get_inputs()[0].type, np.float32)
        self._model = self._open(rewritten.model)

    def check(
        self, own: NDArray[np.float32], others: NDArray[np.float32], task: str = "default"
    ) -> None:
        """Compare both on samples.

        Parameters
        ----------
        own
            Samples [n, ...].
        others
            Others [m, ...], at least one, that fill up batches.

        Raises
        ------
        UserError
            They differ.
        """
        frames = self._rewritten.frames
        alone = [self._run(self._model, sample[None]) for sample in own]
        size = min(len(own), frames)
        for start in range(0, max(len(own), frames), size):  # all samples, in all places
            numbers = np.arange(start, start + size)
            batch = np.resize(others, (frames, *own.shape[1:]))
            batch[numbers % frames] = own[numbers % len(own)]
            whole = self._run(self._file, batch)
            for number in numbers:
                for whole_of, frame in zip(whole, alone[number % len(own)], strict=True):
                    part = whole_of[[number % frames]] if frames > 1 else whole_of
                    self._compare(part, frame, task)

    def _compare(self, file: NDArray[np.float64], model: NDArray[np.float64], task: str) -> None:
        if file.shape == model.shape:
            peak = float(np.abs(file).max(initial=0.0))
            share = max(CLOSE, ROUNDINGS * float(np.finfo(self._type).eps))
            if np.allclose(file, model, rtol=0.0, atol=share * peak, equal_nan=True):
                return
            found = f" (values up to {peak:.3g} differ by {np.abs(file - model).max():.3g})"
        else:
            found = f" (sizes {file.shape} and {model.shape})"
        if self._rewritten.frames > 1:
            raise UserError(
                f"task {task!r}, {self._path}: a frame of the batch of {self._rewritten.frames}"
                f" does not give what it gives alone{found}: export the model for a batch of 1"
            )
        raise UserError(
            f"task {task!r}, {self._path} computes something else in the opset that is"
            f" compiled{found}: export it in float32 with opset_version=20"
        )

    def _open(self, model: str | bytes) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise self._refusal(error) from error

    def _run(
        self, session: onnxruntime.InferenceSession, frames: NDArray[np.generic]
    ) -> list[NDArray[np.float64]]:
        try:
            values = session.run(self._outputs, {self._input: frames.astype(self._type)})
        except Exception as error:
            raise self._refusal(error) from error
        return [np.asarray(value, np.float64) for value in values]

    def _refusal(self, error: Exception) -> UserError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return UserError(f"ONNX Runtime cannot run {self._path}: {reason}")
