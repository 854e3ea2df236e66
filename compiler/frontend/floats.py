"""Models in float16 and bfloat16 become models in float32.

Widening changes no weight: float32 holds all that either holds. Only the constants of GELU become
what they are the rounding of. What the file would round in
between is left out, here and where ONNX Runtime computes what is compared; so the comparison is as
sharp as that of a float32 file, and needs no kernels that a processor may not have.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

SHORT = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
TYPE_ATTRIBUTES = ("dtype", "output_dtype", "precision", "softmax_precision", "stash_type", "to")
"""Attributes that are an element type."""
GELU_CONSTANTS = (2**0.5, 0.5**0.5, (2 / np.pi) ** 0.5, 0.044715)
"""Irrational or decimal factors of GELU written as arithmetic: a file that rounds them means these.
Rounded, they would move GELU by at most 3.4e-4."""
ROUNDED = "rounding to 16 bits is left out"
"""Note on what a file computes in 16 bits."""

ReadTensor = Callable[[onnx.TensorProto, str], NDArray[np.generic]]
"""Returns the contents of a tensor, which messages call as the second argument says."""


def widen(model: onnx.ModelProto, read: ReadTensor) -> set[str]:
    """Make every float of 16 bits in a model one of 32, in place.

    Returns
    -------
    Names of values that the file itself rounds to 16 bits: inputs, and results of casts.
    """
    rounded: set[str] = set()
    _widen_graph(model.graph, read, rounded)
    return rounded


def _widen_graph(graph: onnx.GraphProto, read: ReadTensor, rounded: set[str]) -> None:
    short = {tensor.name for tensor in graph.initializer if tensor.data_type in SHORT}
    rounded |= {v.name for v in graph.input if _is_short(v.type) and v.name not in short}
    short |= rounded
    for tensor in graph.initializer:
        _widen_tensor(tensor, f"initializer {tensor.name!r}", read)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if _is_short(value.type):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for node in graph.node:
        if node.op_type == "CastLike" and short.intersection(node.input[1:2]):
            rounded.update(node.output)
        for attribute in node.attribute:
            if attribute.name in TYPE_ATTRIBUTES and attribute.i in SHORT:
                attribute.i = onnx.TensorProto.FLOAT
                if node.op_type == "Cast":
                    rounded.update(node.output)
            if attribute.HasField("t"):
                _widen_tensor(attribute.t, f"node {node.name!r} ({node.op_type})", read)
            for inner in (attribute.g, *attribute.graphs):
                _widen_graph(inner, read, rounded)


def _is_short(kind: onnx.TypeProto) -> bool:
    return kind.tensor_type.elem_type in SHORT


def _widen_tensor(tensor: onnx.TensorProto, what: str, read: ReadTensor) -> None:
    if tensor.data_type not in SHORT:
        return
    wide = read(tensor, what).astype(np.float32)
    if wide.size == 1:
        for meant in GELU_CONSTANTS:
            if wide.item() == _rounded(meant, tensor.data_type):
                wide = np.full_like(wide, meant)
    tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _rounded(value: float, kind: int) -> float:
    return float(np.asarray(value).astype(helper.tensor_dtype_to_np_dtype(kind)))
