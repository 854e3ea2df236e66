"""Element types of a graph's values, and how large they are before anything is allocated.

Both come from ONNX's own shape inference, node by node, with the values of small constants.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from moesaic.compiler.frontend.algebra import Value
from moesaic.compiler.frontend.load import OnnxGraph
from moesaic.compiler.frontend.nodes import standard_domain
from moesaic.compiler.frontend.views import NotRecognised, View, check_elements

SMALL = 256
"""Largest constant whose values shape inference sees: shapes, repeats, axes are far smaller."""
MOST_IN_ALL = 1 << 29
"""Elements of all values of a graph together: tracing keeps about 10 bytes for each."""


class Types:
    """What is known of every value so far."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph = graph
        self._kinds = {tensor.name: tensor.data_type for tensor in graph.model.graph.initializer}
        self._kinds[graph.input_name] = onnx.TensorProto.FLOAT
        self._elements = 0
        self._imports = [
            helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()
        ]

    def of(self, name: str) -> int:
        """Return the element type of a value, UNDEFINED where it is not known."""
        return self._kinds.get(name, onnx.TensorProto.UNDEFINED)

    def infer(self, node: onnx.NodeProto, inputs: Sequence[Value | None]) -> None:
        """Learn the types of a node's outputs.

        Raises
        ------
        NotRecognised
            They do not fit the operator, or are too large.
        """
        opset = self._graph.opsets[""]
        if standard_domain(node) != "" or not onnx.defs.has(node.op_type, opset):
            # A foreign operator: of the type of its first input.
            self._kinds.update((name, self.of(node.input[0])) for name in node.output if node.input)
            return
        kinds, known = {}, {}
        for name, value in zip(node.input, inputs, strict=True):
            if value is None:
                continue
            shape = value.shape if isinstance(value, View) else np.shape(value)
            kinds[name] = helper.make_tensor_type_proto(self.of(name), shape)
            if not isinstance(value, View) and value.size <= SMALL:
                known[name] = self._tensor(name, value)
        if any(kind.tensor_type.elem_type == onnx.TensorProto.UNDEFINED for kind in kinds.values()):
            return
        try:
            outputs = shape_inference.infer_node_outputs(
                onnx.defs.get_schema(node.op_type, opset),
                node,
                kinds,
                known,
                opset_imports=self._imports,
                ir_version=self._graph.model.ir_version,
            )
        except Exception as error:  # its exceptions share no base class
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise NotRecognised(f"its inputs do not fit ({reason})") from error
        for name, kind in outputs.items():
            tensor = kind.tensor_type
            self._kinds[name] = tensor.elem_type
            sizes = [d.dim_value for d in tensor.shape.dim if d.HasField("dim_value")]
            elements = int(np.prod(sizes, dtype=object))
            check_elements(elements, f"its output {name!r}")
            self._elements += elements
        if self._elements > MOST_IN_ALL:
            raise NotRecognised(
                f"the values up to here have more than {MOST_IN_ALL:,} elements: no target holds "
                "such a model"
            )

    def _tensor(self, name: str, value: np.ndarray) -> onnx.TensorProto:
        kind = helper.tensor_dtype_to_np_dtype(self.of(name))
        return numpy_helper.from_array(np.asarray(value).astype(kind), name)
