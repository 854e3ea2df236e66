"""Files of other opsets than those that operators are understood in: converted by ONNX itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import checker, helper, version_converter

from moesaic.compiler.frontend.nodes import standard_domain
from moesaic.compiler.frontend.parse import first_line
from moesaic.spec.errors import UserError

OPSETS = range(13, 25)
"""Opsets of the default domain that are read as they are."""
OLDEST = 7
"""What ONNX's converter and ONNX Runtime begin with."""
NEWEST = onnx.defs.onnx_opset_version()
AHEAD = {"LayerNormalization": 17}
"""Operators that ONNX Runtime's optimizer puts into files of older opsets, where they mean what
they do in the opset given."""
_FOREIGN = "com.microsoft"


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of the default domain, 0 without one."""
    opsets = {entry.domain or "": entry.version for entry in model.opset_import}
    return int(opsets.get("", opsets.get("ai.onnx", 0)))


@contextmanager
def _hidden(model: onnx.ModelProto) -> Iterator[set[str]]:
    """Keep nodes of :data:`AHEAD` in a domain that the converter passes over; what they make."""
    nodes = [node for node in model.graph.node if is_ahead(node, opset_of(model))]
    if nodes and all(entry.domain != _FOREIGN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_FOREIGN, 1))
    for node in nodes:
        node.domain = _FOREIGN
    try:
        yield {name for node in nodes for name in node.output}
    finally:
        for node in nodes:
            node.domain = ""


def is_ahead(node: onnx.NodeProto, opset: int) -> bool:
    """Whether a node is one of :data:`AHEAD` in an opset that has no such operator."""
    return not standard_domain(node) and opset < AHEAD.get(node.op_type, 0)


def convert_opset(model: onnx.ModelProto, path: str | Path) -> onnx.ModelProto:
    """Return a model in one of :data:`OPSETS`: itself, or converted to the nearest.

    What the converter makes of a file is no proof; see ``moesaic.compiler.validate.rewritten``.

    Raises
    ------
    UserError
        It cannot be converted.
    """
    opset = opset_of(model)
    if opset in OPSETS:
        return model
    nearest = min(max(opset, OPSETS[0]), OPSETS[-1])
    way_out = f"export it again with opset_version={nearest}"
    if not OLDEST <= opset <= NEWEST:
        raise UserError(
            f"{path} must use opset {OLDEST} to {NEWEST} of the default domain, not {opset}:"
            f" {way_out}"
        )
    try:
        with _hidden(model) as outputs:
            checker.check_model(model)
            result = version_converter.convert_version(model, nearest)
        for node in result.graph.node:
            if not outputs.isdisjoint(node.output):
                node.domain = ""
        return result
    except Exception as error:  # the converter is C++, its exceptions share no base class
        raise UserError(
            f"{path} cannot be converted from opset {opset} to {nearest}"
            f" ({first_line(error)}): {way_out}"
        ) from error
