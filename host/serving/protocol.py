"""Inference requests and answers: JSON, followed by tensors in binary form if asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.host.serving.errors import RequestError
from moesaic.host.serving.models import DATATYPE, VERSION, Model
from moesaic.host.serving.tensors import WIRE, parameters_of, read_inputs, refuse, shown

HEADER_LENGTH = "Inference-Header-Content-Length"
"""HTTP header with the length of the JSON part, in bytes, of a body that has a binary part."""

_PIECE = 2048
"""Numbers that are written in one go: some 3 ms."""


@dataclass(frozen=True)
class InferRequest:
    """A request that is valid for its model.

    Attributes
    ----------
    model
        What it is for.
    id
        To be echoed, or ``None``.
    inputs
        float32 [frames, ...] by name. They may be views of the body.
    outputs
        Names of the outputs to answer with, and whether each goes in binary form.
    """

    model: Model
    id: str | None
    inputs: dict[str, NDArray[np.float32]]
    outputs: dict[str, bool]


def _split(body: bytearray, header_length: str | None) -> tuple[bytes | bytearray, memoryview]:
    """The JSON part and the binary part."""
    if header_length is None:
        return body, memoryview(b"")
    text = header_length.strip()
    # int() would take signs, underscores and other scripts' digits.
    if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) > len(body):
        raise refuse(
            f"{HEADER_LENGTH} must be the length of the JSON part, at most the {len(body)} bytes"
            f" of the body, not {text[:40]!r}"
        )
    length = int(text)
    return bytes(body[:length]), memoryview(body)[length:]


def read_outputs(model: Model, items: Any, binary: bool) -> dict[str, bool]:
    """Which outputs to send, and whether in binary form; all of them unless some are named."""
    if items is None or items == []:
        return dict.fromkeys(model.outputs, binary)
    if not isinstance(items, list):
        raise refuse("outputs must be a list")
    wanted: dict[str, bool] = {}
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise refuse("every output must be an object with a name")
        name = item["name"]
        if name not in model.outputs:
            known = ", ".join(model.outputs)
            raise refuse(
                f"model {model.name!r} has no output {shown(name)}; its outputs are: {known}"
            )
        if name in wanted:
            raise refuse(f"output {name!r} is asked for twice")
        parameters = parameters_of(item, f"output {name!r}")
        if "classification" in parameters:
            raise refuse(f"output {name!r}: classification is not supported; ask for the tensor")
        wanted[name] = _flag(parameters, "binary_data", binary)
    return wanted


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise refuse(f"{name} must be true or false")
    return value


def read_request(
    model: Model, body: bytearray, header_length: str | None, json_limit_bytes: int
) -> InferRequest:
    """Take a body apart.

    Parameters
    ----------
    model
        The one that the request's path names.
    body
        JSON; behind it the bytes of the tensors that go in binary form.
    header_length
        Value of the HTTP header :data:`HEADER_LENGTH`, ``None`` if there is none: all is JSON.
    json_limit_bytes
        Longest JSON part.

    Raises
    ------
    RequestError
        400: anything that is not as the protocol and the model want it. 413: too much JSON.
    """
    text, binary = _split(body, header_length)
    if len(text) > json_limit_bytes:
        raise RequestError(
            413, f"the JSON exceeds {json_limit_bytes} bytes; send tensors in binary form"
        )
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        # UnicodeDecodeError is a ValueError; so are numbers of too many digits.
        raise refuse(f"the JSON part of the body cannot be read: {error}") from error
    if not isinstance(message, dict):
        raise refuse("the JSON part of the body must be an object")
    request_id = message.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise refuse("id must be a string")
    parameters = parameters_of(message, "the request")
    return InferRequest(
        model,
        request_id,
        read_inputs(model, message.get("inputs"), binary),
        read_outputs(
            model, message.get("outputs"), _flag(parameters, "binary_data_output", default=False)
        ),
    )


def _numbers(array: NDArray[np.float32]) -> str:
    """Numbers as JSON, in pieces: between two of them Python lets other threads run."""
    flat = array.reshape(-1)
    pieces = [
        json.dumps(flat[at : at + _PIECE].tolist(), allow_nan=False)[1:-1]
        for at in range(0, len(flat), _PIECE)
    ]
    return ", ".join(pieces)


def write_response(
    request: InferRequest,
    arrays: Mapping[str, NDArray[np.float32]],
    parameters: Mapping[str, str | float],
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer, and its HTTP headers.

    ``arrays`` holds float32 [frames, ...] by output name. Numbers in JSON have so many digits that
    a reader gets the same float32 back.
    """
    tensors: list[str] = []
    binary: list[bytes] = []
    for name, in_binary in request.outputs.items():
        array = arrays[name]
        tensor: dict[str, Any] = {"name": name, "datatype": DATATYPE, "shape": list(array.shape)}
        if in_binary:
            binary.append(array.astype(WIRE, copy=False).tobytes())
            tensor["parameters"] = {"binary_data_size": len(binary[-1])}
            tensors.append(json.dumps(tensor))
        else:
            tensors.append(f'{json.dumps(tensor)[:-1]}, "data": [{_numbers(array)}]}}')
    message: dict[str, Any] = {
        "model_name": request.model.name,
        "model_version": VERSION,
        "parameters": dict(parameters),
    }
    if request.id is not None:
        message["id"] = request.id
    text = f'{json.dumps(message)[:-1]}, "outputs": [{", ".join(tensors)}]}}'.encode()
    if not binary:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return b"".join([text, *binary]), headers
