"""Multiply-accumulates of an ONNX model of static shapes."""

from __future__ import annotations

import math

import onnx
from onnx import shape_inference

UNCOUNTED = ("Attention", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan")
"""Operators that hold products which are not counted here."""


def count_macs(model: onnx.ModelProto) -> int | None:
    """Return the multiply-accumulates of convolutions and matrix products, one frame.

    Elementwise operators, normalisation and interpolation do not count, as on the accelerator.
    None where a shape is not known before the model runs, or products hide in an operator that
    is not counted here.
    """
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, tuple[int, ...]] = {
        tensor.name: tuple(tensor.dims) for tensor in graph.initializer
    }
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    total = 0
    for node in graph.node:
        if node.op_type in UNCOUNTED or node.domain not in ("", "ai.onnx"):
            return None
        try:
            total += _macs_of(node, shapes)
        except KeyError:
            return None
    return total


def _macs_of(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the products of one node; KeyError where a shape is missing."""
    if node.op_type == "Conv":  # weight [outputs, inputs / groups, ...]
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":  # weight [inputs, outputs / groups, ...]
        return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    return 0
