"""ONNX Runtime as the float oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from moesaic.spec.errors import UserError
from moesaic.spec.hostpart import without_batch


def run_onnx(path: Path, name: str, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Float outputs of an ONNX model for ``samples`` [n, ...], fed one by one.

    Raises
    ------
    UserError
        ONNX Runtime refuses the model or its output is not finite.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        outputs = [without_batch(session.run(None, {name: sample[None]})[0]) for sample in samples]
    except Exception as error:  # its exceptions share no base class
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"ONNX Runtime cannot run {path}: {reason}") from error
    result = np.stack(outputs)
    if not np.isfinite(result).all():
        raise UserError(f"{path} gives NaN or infinity on the samples; check the model's weights")
    return result
