"""Models in float16 and bfloat16, made from models in float32."""

from __future__ import annotations

import logging

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

KINDS = ["float16", "float16 inside", "bfloat16"]
TYPE_ATTRIBUTES = ("dtype", "to")


def shorten(proto: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """Return a model in 16 bits; "inside" keeps float32 at input and output."""
    if kind == "bfloat16":
        return _bfloat16(proto)
    logging.getLogger("onnxruntime.transformers.float16").setLevel(logging.ERROR)
    return convert_float_to_float16(proto, keep_io_types=kind == "float16 inside")


def _bfloat16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Replace float32 wherever it stands: no converter does."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    for tensor in model.graph.initializer:
        _shorten_tensor(tensor)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in TYPE_ATTRIBUTES and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.BFLOAT16
            if attribute.HasField("t"):
                _shorten_tensor(attribute.t)
    return model


def _shorten_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        kind = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
        short = numpy_helper.to_array(tensor).astype(kind)
        tensor.CopyFrom(numpy_helper.from_array(short, tensor.name))
