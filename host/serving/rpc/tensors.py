"""Tensors of messages: raw bytes beside them, or numbers in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.host.serving.models import DATATYPE, VERSION, Model, TensorInfo
from moesaic.host.serving.protocol import read_outputs
from moesaic.host.serving.rpc.messages import CLASSES
from moesaic.host.serving.tensors import WIRE, declared_shape, gather, parameters_of, refuse, shown


@dataclass(frozen=True)
class Wanted:
    """A request that is valid for its model.

    Attributes
    ----------
    id
        To be echoed; empty if there is none.
    inputs
        float32 [frames, ...] by name.
    outputs
        Names of the outputs to answer with.
    raw
        Whether as bytes, as the inputs were.
    """

    id: str
    inputs: dict[str, NDArray[np.float32]]
    outputs: list[str]
    raw: bool


def _parameters(message: Any) -> dict[str, Any]:
    values = {}
    for name, value in message.parameters.items():
        choice = value.WhichOneof("parameter_choice")
        values[name] = None if choice is None else getattr(value, choice)
    return values


def _read(tensor: Any, raw: bytes | None, info: TensorInfo) -> NDArray[np.float32]:
    name = info.name
    parameters_of({"parameters": _parameters(tensor)}, f"input {name!r}")
    shape = declared_shape({"datatype": tensor.datatype, "shape": list(tensor.shape)}, info)
    count = math.prod(shape)
    if raw is None:
        numbers = tensor.contents.fp32_contents
        if len(numbers) != count:
            raise refuse(
                f"input {name!r} of the shape {shown(list(shape))} takes {count} numbers in"
                f" fp32_contents, not {len(numbers)}, or its bytes in raw_input_contents"
            )
        return np.array(numbers, np.float32).reshape(shape)
    if tensor.HasField("contents"):
        raise refuse(f"input {name!r} has contents beside raw_input_contents; give one")
    if len(raw) != count * WIRE.itemsize:
        raise refuse(
            f"input {name!r} of the shape {shown(list(shape))} takes {count * WIRE.itemsize} bytes"
            f" of raw_input_contents, not {len(raw)}"
        )
    return np.frombuffer(raw, WIRE).reshape(shape).astype(np.float32, copy=False)


def read(model: Model, request: Any) -> Wanted:
    """Take a ``ModelInferRequest`` apart.

    Raises
    ------
    RequestError
        400: anything that is not as the protocol and the model want it.
    """
    parameters_of({"parameters": _parameters(request)}, "the request")
    raw: list[bytes | None] = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise refuse(
            f"raw_input_contents has {len(raw)} parts for {len(request.inputs)} inputs;"
            " give one for each, or none"
        )
    tensors = zip(request.inputs, raw or [None] * len(request.inputs), strict=True)
    inputs = gather(model, ((item.name, partial(_read, item, data)) for item, data in tensors))
    named = [{"name": item.name, "parameters": _parameters(item)} for item in request.outputs]
    return Wanted(request.id, inputs, list(read_outputs(model, named, binary=True)), bool(raw))


def write(
    model: Model,
    wanted: Wanted,
    arrays: Mapping[str, NDArray[np.float32]],
    device: str,
    latency_seconds: float,
) -> bytes:
    """A ``ModelInferResponse`` with the float32 arrays [frames, ...] that were asked for."""
    answer = CLASSES["ModelInferResponse"](
        model_name=model.name, model_version=VERSION, id=wanted.id
    )
    answer.parameters["device"].string_param = device
    answer.parameters["latency_seconds"].double_param = latency_seconds
    for name in wanted.outputs:
        array = arrays[name]
        tensor = answer.outputs.add(name=name, datatype=DATATYPE, shape=array.shape)
        if wanted.raw:
            answer.raw_output_contents.append(array.astype(WIRE, copy=False).tobytes())
        else:
            tensor.contents.fp32_contents.extend(array.reshape(-1))
    return answer.SerializeToString()
