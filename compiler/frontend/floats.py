"""Models in float16, bfloat16 and float64 become models in float32.

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


def narrow(model: onnx.ModelProto, read: ReadTensor) -> list[str]:
    """Make every float of 64 bits in a model one of 32, in place, where its inputs have 64.

    In other models they are constants that sizes are worked out from.

    Returns
    -------
    The names of such inputs; none for a model that stays as it is.
    """
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [
        value.name
        for value in graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE and value.name not in stored
    ]
    if inputs:
        _convert(graph, (onnx.TensorProto.DOUBLE,), read, set())
    return inputs


def widen(model: onnx.ModelProto, read: ReadTensor) -> set[str]:
    """Make every float of 16 bits in a model one of 32, in place.

    Returns
    -------
    Names of values that the file itself rounds to 16 bits: inputs, and results of casts.
    """
    rounded: set[str] = set()
    _convert(model.graph, SHORT, read, rounded)
    return rounded


def _convert(
    graph: onnx.GraphProto, kinds: tuple[int, ...], read: ReadTensor, rounded: set[str]
) -> None:
    """Make every float of ``kinds`` one of 32 bits, in place."""
    stored = {tensor.name for tensor in graph.initializer if tensor.data_type in kinds}
    rounded |= {
        value.name
        for value in graph.input
        if value.type.tensor_type.elem_type in kinds and value.name not in stored
    }
    stored |= rounded
    for tensor in graph.initializer:
        _convert_tensor(tensor, kinds, f"initializer {tensor.name!r}", read)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in kinds:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for node in graph.node:
        if node.op_type == "CastLike" and stored.intersection(node.input[1:2]):
            rounded.update(node.output)
        for attribute in node.attribute:
            if attribute.name in TYPE_ATTRIBUTES and attribute.i in kinds:
                attribute.i = onnx.TensorProto.FLOAT
                if node.op_type == "Cast":
                    rounded.update(node.output)
            if attribute.HasField("t"):
                what = f"node {node.name!r} ({node.op_type})"
                _convert_tensor(attribute.t, kinds, what, read)
            for inner in (attribute.g, *attribute.graphs):
                _convert(inner, kinds, read, rounded)


def _convert_tensor(
    tensor: onnx.TensorProto, kinds: tuple[int, ...], what: str, read: ReadTensor
) -> None:
    if tensor.data_type not in kinds:
        return
    with np.errstate(over="ignore"):  # infinity is refused where constants are read
        wide = read(tensor, what).astype(np.float32)
    if wide.size == 1 and tensor.data_type in SHORT:
        for meant in GELU_CONSTANTS:
            if wide.item() == _rounded(meant, tensor.data_type):
                wide = np.full_like(wide, meant)
    tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _rounded(value: float, kind: int) -> float:
    return float(np.asarray(value).astype(helper.tensor_dtype_to_np_dtype(kind)))
