"""ONNX Runtime as the float oracle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from moesaic.spec.errors import UserError
from moesaic.spec.hostpart import without_batch

if TYPE_CHECKING:
    from moesaic.compiler.validate.rewritten import Original


class Oracle:
    """A model in ONNX Runtime, on the processor.

    Parameters
    ----------
    model
        A file, or its contents.
    name
        How messages name it.
    input_name
        Its one input.
    own
        Names of the model's own outputs, where it has more; all without them.

    Raises
    ------
    UserError
        ONNX Runtime refuses the model.
    """

    def __init__(
        self, model: Path | bytes, name: str, input_name: str, own: list[str] | None = None
    ) -> None:
        self._name, self._input = name, input_name
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class
            raise self._refusal(error) from error
        self.outputs = [output.name for output in self._session.get_outputs()]
        """Names of all outputs."""
        self.own = self.outputs if own is None else own
        """Of those, the model's."""
        self.original: Original | None = None
        """The file itself, where the model was made from it by more than reading."""

    def _refusal(self, error: Exception) -> UserError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return UserError(f"ONNX Runtime cannot run {self._name}: {reason}")

    def run(
        self, samples: NDArray[np.float32], *, finite: bool = True
    ) -> dict[str, NDArray[np.float32]]:
        """Return every output for ``samples`` [n, ...], fed one by one, by name.

        Raises
        ------
        UserError
            ONNX Runtime fails, or, with ``finite``, an output of the model's own is not finite.
        """
        try:
            runs = [self._session.run(None, {self._input: sample[None]}) for sample in samples]
        except Exception as error:
            raise self._refusal(error) from error
        columns = zip(*runs, strict=True)
        results = {
            name: np.stack([without_batch(value) for value in column])
            for name, column in zip(self.outputs, columns, strict=True)
        }
        if finite and not all(np.isfinite(results[name]).all() for name in self.own):
            raise UserError(
                f"{self._name} gives NaN or infinity on the samples; check the model's weights"
            )
        return results


def run_onnx(path: Path, name: str, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Float outputs of an ONNX model with one output for ``samples`` [n, ...], fed one by one.

    Raises
    ------
    UserError
        ONNX Runtime refuses the model or its output is not finite.
    """
    oracle = Oracle(path, str(path), name)
    (output,) = oracle.own
    return oracle.run(samples)[output]
