"""Bytes of a file to a model: external data beside it, local functions inlined, nodes in order."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir
from onnx import external_data_helper, inliner

from moesaic.compiler.frontend.nodes import describe, reads
from moesaic.spec.arrays import other_kind
from moesaic.spec.errors import UserError

SORTED = "the file reads values before they are made; its nodes have been sorted"
"""Note on the first node that does."""


def parse(path: Path) -> onnx.ModelProto:
    """Read a file with its external data.

    Raises
    ------
    UserError
        There is none, it is no ONNX model, or external data are missing.
    """
    if not path.is_file():
        what = "it is no plain file" if path.exists() else "there is no such file"
        raise UserError(f"model {path} must be an ONNX file, but {what}")
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not model.ir_version or not model.HasField("graph") or not model.opset_import:
            raise ValueError("it holds no graph")
    except Exception as error:  # whatever the parser throws at foreign bytes
        raise UserError(
            f"model {path} must be an ONNX file: {_kind(path) or first_line(error)}"
        ) from error
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # missing files, wrong lengths, paths that leave the folder
        raise UserError(
            f"external data of {path} cannot be read; keep it beside the model: {first_line(error)}"
        ) from error
    return model


def inline(model: onnx.ModelProto, path: str | Path) -> onnx.ModelProto:
    """Return a model without local functions."""
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        raise UserError(
            f"local functions of {path} cannot be inlined; export without functions: "
            f"{first_line(error)}"
        ) from error


def sort_nodes(
    model: onnx.ModelProto, path: str | Path
) -> tuple[onnx.ModelProto, list[tuple[str, str]]]:
    """Return a model whose nodes follow what they read, and a note if it is not the one given.

    Converters append casts at the end. The order of nodes that do not depend on each other stays.
    """
    produced = {name for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if not produced.isdisjoint(reads(node)):
            break
        produced.difference_update(node.output)
    else:
        return model, []
    note = SORTED, describe(node)
    try:
        sorted_model = onnx_ir.from_proto(model)
        sorted_model.graph.sort()
        return onnx_ir.to_proto(sorted_model), [note]
    except Exception as error:  # cycles, and whatever a damaged graph runs into
        raise UserError(
            f"{path} reads values before they are made, in a circle: export it again "
            f"({first_line(error)})"
        ) from error


def first_line(error: Exception) -> str:
    """Return what an exception says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _kind(path: Path) -> str:
    """What a file is that is no ONNX model, and the way out; "" if that is not known."""
    try:
        with path.open("rb") as file:
            what = other_kind(file, path.with_suffix(""))
    except Exception:  # as above
        return ""
    if what in ("an ONNX model", "something else"):
        return ""
    return f"it is {what or 'an .npz or another archive'}: give what torch.onnx.export writes"
