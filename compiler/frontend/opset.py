"""Files of other opsets than those that operators are understood in: converted by ONNX itself."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import checker, version_converter

from moesaic.compiler.frontend.parse import first_line
from moesaic.spec.errors import UserError

OPSETS = range(13, 24)
"""Opsets of the default domain that are read as they are."""
OLDEST = 7
"""What ONNX's converter and ONNX Runtime begin with."""
NEWEST = onnx.defs.onnx_opset_version()


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of the default domain, 0 without one."""
    opsets = {entry.domain or "": entry.version for entry in model.opset_import}
    return int(opsets.get("", opsets.get("ai.onnx", 0)))


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
        checker.check_model(model)
        return version_converter.convert_version(model, nearest)
    except Exception as error:  # the converter is C++, its exceptions share no base class
        raise UserError(
            f"{path} cannot be converted from opset {opset} to {nearest}"
            f" ({first_line(error)}): {way_out}"
        ) from error
