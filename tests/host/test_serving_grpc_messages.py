"""The messages of gRPC: those of the public definition, and those that are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from moesaic.host import Session
from moesaic.host.serving.bundles import alone
from moesaic.host.serving.rpc.messages import CLASSES, METHODS, SERVICE
from moesaic.host.serving.rpc.wire import MOST_FIELDS
from moesaic.spec.bundle import Bundle
from tests.host.grpc_calls import LIMITS, call, typed
from tests.host.serving import (
    Running,
    frames,
    serving_all,
    two_tasks,
)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return two_tasks()


@pytest.fixture(scope="module")
def running(bundle: Bundle) -> Iterator[Running]:
    with serving_all([alone(Session(bundle, ["cpu"]))], LIMITS, rpc=True) as server:
        yield server


def _fields(descriptor: Any) -> dict[str, tuple[Any, ...]]:
    found = {}
    for field in descriptor.fields:
        kind = field.message_type.full_name if field.message_type else field.type
        one_of = field.containing_oneof.name if field.containing_oneof else None
        found[field.name] = (field.number, kind, field.is_repeated, one_of)
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_messages_are_those_of_the_public_definition(name: str) -> None:
    public = service_pb2.DESCRIPTOR
    for part in name.split("."):
        inner = getattr(public, "message_types_by_name", None) or public.nested_types_by_name
        public = inner[part]
    ours = CLASSES[name].DESCRIPTOR
    assert ours.full_name == public.full_name
    for field, wanted in _fields(ours).items():
        assert _fields(public)[field] == wanted, field
    for entry in ours.nested_types:
        assert entry.GetOptions().map_entry == (
            public.nested_types_by_name[entry.name].GetOptions().map_entry
        )
        assert _fields(entry) == _fields(public.nested_types_by_name[entry.name])


def test_methods_are_those_of_the_public_definition() -> None:
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == SERVICE
    for name in METHODS:
        method = service.methods_by_name[name]
        assert method.input_type.full_name == CLASSES[f"{name}Request"].DESCRIPTOR.full_name
        assert method.output_type.full_name == CLASSES[f"{name}Response"].DESCRIPTOR.full_name


def _wrong(request: Any, what: str) -> str:
    """Spoil a request; returns what its refusal says."""
    (tensor,) = request.inputs
    match what:
        case "model":
            request.model_name = "night"
            return "there is no model 'night'"
        case "version":
            request.model_version = "2"
            return "version 1 only"
        case "input":
            tensor.name = "z"
            return "no input 'z'"
        case "twice":
            request.inputs.add().CopyFrom(tensor)
            return "given twice"
        case "none":
            del request.inputs[:]
            return "needs the input 'x'"
        case "datatype":
            tensor.datatype = "INT8"
            return "must be FP32"
        case "shape":
            tensor.shape[0] = -1
            return "list of counts"
        case "huge shape":
            tensor.shape[0] = 1 << 62
            return "takes"
        case "numbers":
            tensor.contents.fp32_contents.append(1.0)
            return "takes 160 numbers in fp32_contents, not 161"
        case "nan":
            tensor.contents.fp32_contents[3] = float("nan")
            return "NaN or infinity"
        case "both":
            request.raw_input_contents.append(bytes(640))
            return "contents beside raw_input_contents"
        case "raw parts":
            request.raw_input_contents.extend([bytes(640)] * 2)
            return "2 parts for 1 inputs"
        case "raw length":
            tensor.ClearField("contents")
            request.raw_input_contents.append(bytes(639))
            return "takes 640 bytes of raw_input_contents, not 639"
        case "other contents":
            tensor.contents.Clear()
            tensor.contents.int_contents.extend([1] * 160)
            return "fp32_contents, not 0"
        case "output":
            request.outputs.add(name="z")
            return "no output 'z'"
        case "classes":
            request.outputs.add(name="y").parameters["classification"].int64_param = 3
            return "classification is not supported"
        case "shared memory":
            tensor.parameters["shared_memory_region"].string_param = "r"
            return "shared memory is not supported"
        case "fields":
            request.raw_input_contents.extend([b""] * MOST_FIELDS)
            return f"more than {MOST_FIELDS} fields"
        case "long shape":
            tensor.shape.extend([1] * 2000)
            return "shape has too many numbers"
    raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    ["model", "version", "input", "twice", "none", "datatype", "shape", "huge shape", "numbers"]
    + ["nan", "both", "raw parts", "raw length", "other contents", "output", "classes"]
    + ["shared memory", "fields", "long shape"],
)
def test_wrong_requests_are_refused(bundle: Bundle, running: Running, what: str) -> None:
    request = typed(frames(bundle, "seg"))
    words = _wrong(request, what)
    with pytest.raises(grpc.RpcError) as caught:
        call(running, "ModelInfer", request.SerializeToString())
    assert words in caught.value.details()
    missing = what in ("model", "version")
    wanted = grpc.StatusCode.NOT_FOUND if missing else grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.code() is wanted


@pytest.mark.parametrize("seed", range(5))
def test_any_bytes_are_answered(bundle: Bundle, running: Running, seed: int) -> None:
    """Cut and changed messages are refused, or answered; they never are the server's fault."""
    rng = np.random.default_rng(seed)
    good = typed(frames(bundle, "seg")).SerializeToString()
    codes = set()
    for _ in range(40):
        data = bytearray(good[: rng.integers(len(good) + 1)])
        for at in rng.integers(0, min(60, len(data)), 2) if data else ():
            data[at] = rng.integers(256)
        try:
            call(running, "ModelInfer", bytes(data))
        except grpc.RpcError as error:
            codes.add(error.code())
    assert codes <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}, codes
    assert running.metric("moesaic_requests_total", outcome="error") == 0


def test_what_is_too_long_or_compressed_is_refused(bundle: Bundle, running: Running) -> None:
    many = typed(frames(bundle, "seg", 2000)).SerializeToString()
    assert len(many) > LIMITS.body_bytes
    with pytest.raises(grpc.RpcError) as caught:
        call(running, "ModelInfer", many)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # Its megabytes would be there before anybody has looked at their number.
    few = typed(frames(bundle, "seg")).SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        call(running, "ModelInfer", few, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    call(running, "ModelInfer", few)
