"""Sizes of all values of a graph, one node after the other, as ONNX infers them."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from moesaic.compiler.frontend import layout
from moesaic.compiler.frontend.nodes import standard_domain

Array = NDArray[np.generic]
Shape = tuple[int, ...]
SMALL = 1 << 16
"""Elements of constants that shape inference sees."""


class Stuck(Exception):
    """Why a node's sizes are not known, or cannot be changed."""


class Sizes:
    """Sizes of the values of a graph, and values of those that depend on no data."""

    def __init__(self, model: onnx.ModelProto, name: str, shape: Shape) -> None:
        self._model = model
        self._imports = list(model.opset_import)
        self._opsets = {entry.domain or "": entry.version for entry in self._imports}
        self.kinds = {name: onnx.TensorProto.FLOAT}
        self.shapes = {name: shape}
        self.inside: dict[str, int] = {}
        """How many places of their axis come before the frames: 1, and more where axes in front of
        them have been merged with theirs."""
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._known: dict[str, Array] = {}

    def constant(self, name: str) -> Array | None:
        """Return a value that depends on no data, None for others."""
        if name not in self._known and name in self._stored:
            self._known[name] = numpy_helper.to_array(self._stored[name])
        return self._known.get(name)

    def store(self, name: str, value: Array) -> None:
        """Learn a value that depends on no data."""
        self._known[name] = value

    def infer(self, node: onnx.NodeProto) -> None:
        """Learn the sizes, or the values, of a node's outputs."""
        if standard_domain(node) or any(a.HasField("g") for a in node.attribute):
            raise Stuck(f"{node.op_type} is not looked into")
        arrays = [self.constant(name) if name else None for name in node.input]
        if node.op_type == "Shape" and node.input[0] in self.shapes:
            given = {a.name: a.i for a in node.attribute}
            shape = self.shapes[node.input[0]]
            part = shape[given.get("start", 0) : given.get("end", len(shape))]
            self._known[node.output[0]] = np.array(part, np.int64)
        elif all(a is not None or not n for a, n in zip(arrays, node.input, strict=True)):
            for name, value in zip(
                node.output, layout.evaluate(node, arrays, self._opsets), strict=True
            ):
                self._known[name] = value
        else:
            self._infer_data(node, arrays)

    def _infer_data(self, node: onnx.NodeProto, arrays: list[Array | None]) -> None:
        kinds, known = {}, {}
        for name, array in zip(node.input, arrays, strict=True):
            if array is not None:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                kinds[name] = helper.make_tensor_type_proto(kind, array.shape)
                if array.size <= SMALL:
                    known[name] = numpy_helper.from_array(np.asarray(array), name)
            elif name:
                kinds[name] = helper.make_tensor_type_proto(self.kinds[name], self.shapes[name])
        schema = onnx.defs.get_schema(node.op_type, self._opsets[""])
        found = shape_inference.infer_node_outputs(
            schema,
            node,
            kinds,
            known,
            opset_imports=self._imports,
            ir_version=self._model.ir_version,
        )
        for name in filter(None, node.output):
            tensor = found[name].tensor_type
            dims = tensor.shape.dim
            if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in dims):
                raise Stuck(f"the size of {name!r} is not known before it runs")
            self.kinds[name] = tensor.elem_type
            self.shapes[name] = tuple(d.dim_value for d in dims)
