"""Scales, zero points and widths of quantisers: constants, and checked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from moesaic.compiler.frontend import layout
from moesaic.compiler.frontend.nodes import describe
from moesaic.spec.errors import UserError

Array = NDArray[np.generic]
FOLDED = (
    "Cast",
    "Clip",
    "Constant",
    "Identity",
    "QuantizeLinear",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
"""What may stand between an initializer and its quantiser."""


class QuantiserInputs:
    """Reads what quantisers of a model read; refuses in the name of their nodes."""

    def __init__(self, model: onnx.ModelProto, path: str) -> None:
        self._path = path
        self._opsets = {entry.domain: entry.version for entry in model.opset_import}
        self._opsets[""] = self._opsets.get("", self._opsets.get("ai.onnx", 0))
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._known: dict[str, Array | None] = {}

    def wrong(self, node: onnx.NodeProto, what: str) -> UserError:
        """Return a refusal that names the node."""
        return UserError(f"{describe(node)} of {self._path} {what}")

    def constant(self, name: str) -> Array | None:
        """Return a tensor that is an initializer, perhaps moved or converted, else None."""
        if name not in self._known:
            self._known[name] = self._evaluate(name)
        return self._known[name]

    def keep(self, name: str, value: Array) -> None:
        """Let a tensor that a quantiser makes be a constant from now on."""
        self._known[name] = value

    def _evaluate(self, name: str) -> Array | None:
        if name in self._tensors:
            return numpy_helper.to_array(self._tensors[name])
        node = self._makers.get(name)
        if node is None or node.op_type not in FOLDED:
            return None
        inputs = [self.constant(part) if part else None for part in node.input]
        if any(value is None for part, value in zip(node.input, inputs, strict=True) if part):
            return None
        return layout.evaluate(node, inputs, self._opsets)[list(node.output).index(name)]

    def number(self, node: onnx.NodeProto, index: int, what: str) -> Array:
        """Return an input that must be a constant."""
        value = self.constant(node.input[index]) if index < len(node.input) else None
        if value is None:
            raise self.wrong(
                node, f"must have a constant {what}: quantise statically, with calibration"
            )
        return value

    def scales(self, node: onnx.NodeProto) -> NDArray[np.float32]:
        """Return a quantiser's scales in the shape that it has them."""
        scale: NDArray[np.float32] = self.number(node, 1, "scale").astype(np.float32)
        right = np.isfinite(scale) & (scale > 0)
        if not scale.size or not right.all():
            found = str(scale[~right].reshape(-1)[0]) if scale.size else "none"
            raise self.wrong(
                node,
                f"must have a scale above 0, not {found}: calibrate with samples that reach it",
            )
        return scale

    def one_scale(self, node: onnx.NodeProto) -> float:
        """Return the one scale of an activation."""
        scale = self.scales(node)
        if scale.size != 1:
            raise self.wrong(
                node,
                f"must have one scale for the whole activation, not {scale.size}, one for each"
                " channel: quantise activations per tensor",
            )
        return float(scale.reshape(-1)[0])

    def zero_point(self, node: onnx.NodeProto) -> tuple[int, int]:
        """Return the zero point of QuantizeLinear or DequantizeLinear and its element type."""
        if len(node.input) > 2 and node.input[2]:
            zero = self.number(node, 2, "zero point")
            if zero.size != 1:
                raise self.wrong(node, "must have one zero point: quantise activations per tensor")
            return int(zero.reshape(-1)[0]), helper.np_dtype_to_tensor_dtype(zero.dtype)
        kind = attributes(node).get("output_dtype") or onnx.TensorProto.UINT8
        assert isinstance(kind, int)
        return 0, kind


def attributes(node: onnx.NodeProto) -> Mapping[str, object]:
    """Return a node's attributes, strings decoded."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def integer_type(kind: int) -> tuple[int, bool] | None:
    """Return the bits of an integer element type and whether it has a sign, else None."""
    name = onnx.TensorProto.DataType.Name(kind).lower()
    bits = name.removeprefix("u").removeprefix("int")
    return (int(bits), not name.startswith("u")) if bits.isdigit() else None
