"""Tensors of inference requests: from JSON or from the bytes behind it."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.host.serving.errors import RequestError
from moesaic.host.serving.models import DATATYPE, Model, TensorInfo

WIRE = np.dtype("<f4")
"""FP32 of the binary extension: little-endian, row-major."""


def refuse(message: str) -> RequestError:
    """The request is wrong in a way that the client can mend."""
    return RequestError(400, message)


def shown(value: Any) -> str:
    """What a request holds, as short as an error message can take it."""
    return reprlib.repr(value)


def parameters_of(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The object ``parameters`` of a request or tensor, empty if there is none."""
    found = item.get("parameters", {})
    if not isinstance(found, dict):
        raise refuse(f"the parameters of {where} must be an object")
    if any(key.startswith("shared_memory") for key in found):
        raise refuse(f"{where}: shared memory is not supported; send tensors with the request")
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def declared_shape(item: Mapping[str, Any], info: TensorInfo) -> tuple[int, ...]:
    """The declared shape [frames, ...], checked against the model's."""
    datatype = item.get("datatype")
    if datatype != DATATYPE:
        raise refuse(f"input {info.name!r} must be {DATATYPE}, not {shown(datatype)}")
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(_is_count(length) for length in shape):
        raise refuse(f"the shape of input {info.name!r} must be a list of counts")
    if tuple(shape[1:]) != info.frame or not shape or shape[0] < 1:
        want = ", ".join(map(str, info.frame))
        raise refuse(
            f"input {info.name!r} must have the shape [N, {want}] with N of at least 1,"
            f" not {shown(shape)}"
        )
    return tuple(shape)


def _from_json(item: dict[str, Any], info: TensorInfo) -> NDArray[np.float32]:
    shape = declared_shape(item, info)
    if not isinstance(item.get("data"), list):
        raise refuse(
            f"input {info.name!r} has no data: give a list, or binary_data_size and the bytes"
        )
    # As objects first: numpy would make numbers of strings, or strings of numbers.
    array = np.asarray(item["data"], dtype=object)
    if array.shape not in (shape, (math.prod(shape),)):
        raise refuse(
            f"input {info.name!r} of the shape {shown(list(shape))} takes {math.prod(shape)}"
            f" numbers, flat or nested like the shape; the data have the shape"
            f" {shown(list(array.shape))}"
        )
    if not set(map(type, array.flat)) <= {int, float}:
        raise refuse(f"the data of input {info.name!r} must be numbers only")
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
            return array.astype(np.float64).astype(np.float32).reshape(shape)
    except OverflowError as error:
        raise refuse(f"the data of input {info.name!r} exceed what {DATATYPE} holds") from error


def _from_bytes(item: dict[str, Any], info: TensorInfo, data: memoryview) -> NDArray[np.float32]:
    shape = declared_shape(item, info)
    if "data" in item:
        raise refuse(f"input {info.name!r} has both data and binary_data_size; give one")
    need = math.prod(shape) * WIRE.itemsize
    if len(data) != need:
        raise refuse(
            f"input {info.name!r} of the shape {shown(list(shape))} takes {need} bytes, but its"
            f" binary_data_size is {len(data)}"
        )
    return np.frombuffer(data, WIRE).reshape(shape).astype(np.float32, copy=False)


def gather(
    model: Model, items: Iterable[tuple[str, Callable[[TensorInfo], NDArray[np.float32]]]]
) -> dict[str, NDArray[np.float32]]:
    """All inputs of a model, each exactly once and finite.

    Parameters
    ----------
    model
        What they are for.
    items
        Names, and what reads the array of a tensor of the model.

    Raises
    ------
    RequestError
        400: an input is missing, unknown, given twice or not finite, or cannot be read.
    """
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, read in items:
        info = model.inputs.get(name)
        if info is None:
            known = ", ".join(model.inputs)
            raise refuse(
                f"model {model.name!r} has no input {shown(name)}; its inputs are: {known}"
            )
        if name in arrays:
            raise refuse(f"input {shown(name)} is given twice")
        array = read(info)
        if not np.isfinite(array).all():
            raise refuse(f"input {name!r} holds NaN or infinity; clean the samples")
        arrays[name] = array
    for name in model.inputs:
        if name not in arrays:
            raise refuse(f"model {model.name!r} needs the input {name!r}")
    return arrays


class _Binary:
    """The bytes behind the JSON part, taken from the front."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def read(self, item: dict[str, Any], info: TensorInfo) -> NDArray[np.float32]:
        """The array of an item, from JSON or from its part of the bytes."""
        name = info.name
        size = parameters_of(item, f"input {name!r}").get("binary_data_size")
        if size is None:
            return _from_json(item, info)
        if not _is_count(size):
            raise refuse(f"binary_data_size of input {name!r} must be a count of bytes")
        if size > self.left:
            raise refuse(
                f"binary_data_size of input {name!r} is {shown(size)}, but {self.left} bytes"
                " are left behind the JSON part; check Inference-Header-Content-Length"
            )
        array = _from_bytes(item, info, self._data[self._at : self._at + size])
        self._at += size
        return array


def _name(item: Any) -> str:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise refuse("every input must be an object with a name")
    return item["name"]


def read_inputs(model: Model, items: Any, binary: memoryview) -> dict[str, NDArray[np.float32]]:
    """Input arrays [frames, ...] by name; binary ones are views of ``binary``.

    Parameters
    ----------
    model
        What they are for.
    items
        ``inputs`` of the request.
    binary
        The bytes behind the JSON part, in the order of those inputs that have a
        ``binary_data_size``.

    Raises
    ------
    RequestError
        400: an input is missing, unknown, given twice, of another type or shape, not finite, or
        the sizes do not add up to the bytes that are there.
    """
    if not isinstance(items, list):
        raise refuse("the request needs a list of inputs")
    data = _Binary(binary)
    arrays = gather(model, ((_name(item), partial(data.read, item)) for item in items))
    if data.left:
        raise refuse(
            f"{data.left} bytes behind the JSON part belong to no input; check binary_data_size"
        )
    return arrays
