"""Requests that are wrong: refused in words, with the right status, and never a fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moesaic.host import Session
from moesaic.host.serving.limits import Limits
from tests.host.serving import Running, binary_request, json_request, serving, two_tasks

PATH = "/v2/models/seg/infer"
LENGTH = "Inference-Header-Content-Length"
X = np.zeros((1, 160), np.float32)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Session(two_tasks(), ["cpu"]), Limits()) as server:
        yield server


def changed(**fields: Any) -> dict[str, Any]:
    """A valid JSON request, except for these fields of its input."""
    message = json_request(X)
    message["inputs"][0].update(fields)
    return message


def with_value(value: Any) -> dict[str, Any]:
    """A valid JSON request, except for one number."""
    return changed(data=[value, *[0.0] * 159])


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/v2/models/night/infer", 404, "no model 'night'; the models are: depth, seg"),
        ("POST", "/v2/models/seg/versions/2/infer", 404, "has version 1 only, not '2'"),
        ("GET", "/v2/models/night", 404, "no model 'night'"),
        ("GET", "/v2/models/night/ready", 404, "no model 'night'"),
        ("GET", "/v2/models/seg/versions/x", 404, "has version 1 only, not 'x'"),
        ("GET", "/v1/models", 404, "models are at /v2/models/NAME"),
        ("GET", PATH, 405, "GET is not for this path"),
        ("DELETE", "/v2", 405, "DELETE is not for this path"),
    ],
)
def test_wrong_paths(running: Running, method: str, path: str, status: int, words: str) -> None:
    reply = running.ask(method, path)
    assert reply.status == status and words in reply.error


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 200_000, "cannot be read"),
        (b'{"inputs": [' + b"9" * 5000 + b"]}", "cannot be read"),
        ([], "must be an object"),
        ({}, "needs a list of inputs"),
        ({"inputs": {}}, "needs a list of inputs"),
        ({"inputs": []}, "model 'seg' needs the input 'x'"),
        ({"inputs": ["x"]}, "every input must be an object with a name"),
        ({"inputs": [{"name": 3}]}, "every input must be an object with a name"),
        (changed(name="image"), "no input 'image'; its inputs are: x"),
        ({"inputs": json_request(X)["inputs"] * 2}, "input 'x' is given twice"),
        (changed(datatype="INT8"), "input 'x' must be FP32, not 'INT8'"),
        (changed(datatype=None), "must be FP32, not None"),
        (changed(datatype=["FP32"] * 9), "must be FP32, not ['FP32',"),
        (changed(shape="1x160"), "must be a list of counts"),
        (changed(shape=[-1, 160]), "must be a list of counts"),
        (changed(shape=[True, 160]), "must be a list of counts"),
        (changed(shape=[1.0, 160]), "must be a list of counts"),
        (changed(shape=[]), "must have the shape [N, 160] with N of at least 1, not []"),
        (changed(shape=[160]), "must have the shape [N, 160]"),
        (changed(shape=[0, 160], data=[]), "with N of at least 1, not [0, 160]"),
        (changed(shape=[1, 159]), "must have the shape [N, 160] with N of at least 1"),
        (changed(shape=[2, 160]), "takes 320 numbers"),
        (changed(shape=[10**30, 160]), "takes"),
        (changed(data=None), "has no data"),
        (changed(data="0" * 160), "has no data"),
        (changed(data=[0.0] * 159), "takes 160 numbers, flat or nested like the shape"),
        (changed(data=[[0.0] * 80] * 2), "the data have the shape [2, 80]"),
        (changed(data=[[0.0] * 80, [0.0] * 79]), "the data have the shape [2]"),
        (changed(data=json.loads("[" * 70 + "0" + "]" * 70)), "the data have the shape [1, 1,"),
        (with_value("0.5"), "must be numbers only"),
        (with_value(None), "must be numbers only"),
        (with_value(True), "must be numbers only"),
        (with_value({}), "must be numbers only"),
        (with_value([]), "must be numbers only"),
        (with_value(10**400), "exceed what FP32 holds"),
        (with_value(1e39), "holds NaN or infinity"),
        (with_value(float("nan")), "holds NaN or infinity"),
        (with_value(float("-inf")), "holds NaN or infinity"),
        (json_request(X, id=7), "id must be a string"),
        (json_request(X, parameters=[]), "parameters of the request must be an object"),
        (json_request(X, parameters={"binary_data_output": 1}), "must be true or false"),
        (json_request(X, outputs={"name": "y"}), "outputs must be a list"),
        (json_request(X, outputs=[{}]), "every output must be an object with a name"),
        (json_request(X, outputs=[{"name": "z"}]), "no output 'z'; its outputs are: y"),
        (json_request(X, outputs=[{"name": "y"}] * 2), "output 'y' is asked for twice"),
        (
            json_request(X, outputs=[{"name": "y", "parameters": {"classification": 2}}]),
            "classification is not supported",
        ),
        (
            changed(parameters={"shared_memory_region": "r"}),
            "input 'x': shared memory is not supported",
        ),
        (changed(parameters={"binary_data_size": 640}), "but 0 bytes are left"),
    ],
)
def test_wrong_json(running: Running, body: Any, words: str) -> None:
    reply = running.ask("POST", PATH, body)
    assert reply.status == 400 and words in reply.error
    assert len(reply.error) < 400, "an error must not echo the request"


@pytest.mark.parametrize(
    ("size", "sent", "words"),
    [
        (640, 639, "is 640, but 639 bytes are left"),
        (640, 641, "1 bytes behind the JSON part belong to no input"),
        (639, 640, "takes 640 bytes, but its binary_data_size is 639"),
        (0, 640, "takes 640 bytes, but its binary_data_size is 0"),
        (10**30, 640, "but 640 bytes are left"),
        (-1, 640, "must be a count of bytes"),
        ("640", 640, "must be a count of bytes"),
        (None, 640, "has no data"),
    ],
)
def test_lying_binary_sizes(running: Running, size: Any, sent: int, words: str) -> None:
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, 160],
        "parameters": {"binary_data_size": size},
    }
    text = json.dumps({"inputs": [tensor]}).encode()
    reply = running.ask("POST", PATH, text + bytes(sent), {LENGTH: str(len(text))})
    assert reply.status == 400 and words in reply.error


@pytest.mark.parametrize("length", ["-1", "1.5", "many", "", "9" * 30, "1_0", "99999"])
def test_wrong_header_length(running: Running, length: str) -> None:
    body, _ = binary_request(X)
    reply = running.ask("POST", PATH, body, {LENGTH: length})
    assert reply.status == 400 and f"{LENGTH} must be the length" in reply.error


def test_both_forms_of_an_input_are_one_too_many(running: Running) -> None:
    body, headers = binary_request(X)
    length = int(headers[LENGTH])
    message = json.loads(body[:length])
    message["inputs"][0]["data"] = [0.0] * 160
    text = json.dumps(message).encode()
    reply = running.ask("POST", PATH, text + body[length:], {LENGTH: str(len(text))})
    assert reply.status == 400 and "both data and binary_data_size" in reply.error


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_binary_input_that_is_not_finite(running: Running, value: float) -> None:
    x = X.copy()
    x[0, 159] = value
    reply = running.infer("seg", x)
    assert reply.status == 400 and "NaN or infinity" in reply.error


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["x", "y", "FP32", "name", "inputs", "data", "shape"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["name", "data"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    """A valid request with a few things replaced at random, in its JSON or in its bytes."""
    body, headers = binary_request(X) if draw(st.booleans()) else (None, {})
    if body is None:
        message, tail = json_request(X), b""
    else:
        length = int(headers[LENGTH])
        message, tail = json.loads(body[:length]), body[length:]
    tensor = message["inputs"][0]
    targets = [message, tensor, tensor.get("parameters", message)]
    for _ in range(draw(st.integers(1, 3))):
        target: Any = draw(st.sampled_from(targets))
        key = draw(st.sampled_from([*target, "id", "outputs", "parameters"]))
        target[key] = draw(JSON)
    text = json.dumps(message).encode()
    if tail:
        headers = {LENGTH: str(len(text) + draw(st.sampled_from([0, 0, 0, 1, -1, 7])))}
    whole = bytearray(text + tail)
    for _ in range(draw(st.integers(0, 2))):
        whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    return bytes(whole[: draw(st.sampled_from([len(whole), len(whole) // 2, 0]))]), headers


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(request=requests())
def test_no_request_is_a_fault(running: Running, request: tuple[bytes, dict[str, str]]) -> None:
    reply = running.ask("POST", PATH, *request)
    assert reply.status in (200, 400)
    assert reply.status == 200 or reply.error


def test_every_refusal_was_counted_as_invalid(running: Running) -> None:
    before = running.metric("moesaic_requests_total", task="seg", outcome="invalid")
    strangers = running.metric("moesaic_requests_total", task="unknown", outcome="invalid")
    running.ask("POST", PATH, b"{")
    running.ask("POST", "/v2/models/night/infer", b"{")
    assert running.metric("moesaic_requests_total", task="seg", outcome="invalid") == before + 1
    assert (
        running.metric("moesaic_requests_total", task="unknown", outcome="invalid") == strangers + 1
    )
    assert running.metric("moesaic_requests_total", outcome="error") == 0
    assert running.metric("moesaic_requests_in_flight") == 0
