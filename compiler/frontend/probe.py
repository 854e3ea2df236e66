"""The file's model with inner tensors among its outputs, for whoever wants to look inside."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from moesaic.compiler.frontend.load import read_model
from moesaic.spec.errors import UserError


def expose_tensors(path: str | Path, tensors: Iterable[str]) -> bytes:
    """Return the model of a file as ONNX, its own output first, then ``tensors``.

    Raises
    ------
    UserError
        As :func:`~moesaic.compiler.frontend.load.read_model`, or the model is larger than ONNX can
        hold in one piece.
    """
    model = read_model(path).model
    have = {value.name for value in model.graph.output}
    for name in tensors:
        if name not in have:
            have.add(name)
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf's own, for more than 2 GiB
        raise UserError(
            f"model {path} must be smaller than 2 GiB with its weights: no target holds more"
        ) from error
