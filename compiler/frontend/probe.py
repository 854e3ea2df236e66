"""The file's model with inner tensors among its outputs, for whoever wants to look inside."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from moesaic.compiler.frontend.load import Rewritten, read_model, serialise
from moesaic.compiler.ir import Choice


def expose_tensors(
    path: str | Path, tensors: Iterable[str], choice: Choice | None = None
) -> tuple[bytes, list[str], Rewritten | None]:
    """Return the model of a file as ONNX, its own outputs first, then ``tensors``; the names of its
    own; and what it was made from where that is not the file itself.

    Raises
    ------
    UserError
        As :func:`~moesaic.compiler.frontend.load.read_model`, or the model is larger than ONNX can
        hold in one piece.
    """
    graph = read_model(path, choice)
    return _expose(graph.model, tensors, path), graph.output_names, graph.rewritten


def expose_rest(rest: bytes, tensors: Iterable[str], path: str | Path) -> bytes:
    """:func:`expose_tensors` of what follows a front that the host computes."""
    return _expose(onnx.load_model_from_string(rest), tensors, path)


def _expose(model: onnx.ModelProto, tensors: Iterable[str], path: str | Path) -> bytes:
    have = {value.name for value in model.graph.output}
    for name in tensors:
        if name not in have:
            have.add(name)
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    return serialise(model, path)
