"""What an unmodified public client of the protocol gets from a server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from moesaic.host import Session
from moesaic.host.serving.limits import Limits
from moesaic.spec.bundle import Bundle
from tests.host.serving import Running, binary_request, frames, json_request, serving, two_tasks


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return two_tasks()


@pytest.fixture(scope="module")
def running(bundle: Bundle) -> Iterator[Running]:
    with serving(Session(bundle, ["cpu"]), Limits()) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(running.address) as opened:
        yield opened


def expected(bundle: Bundle, task: str, x: np.ndarray) -> np.ndarray:
    with Session(bundle, ["cpu"]) as session:
        return session.run({"x": x}, task)["y"]


def given(x: np.ndarray, binary: bool) -> list[triton.InferInput]:
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x, binary_data=binary)
    return [tensor]


@pytest.mark.parametrize("task", ["seg", "depth"])
@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_answers_have_the_bits_of_a_session(
    bundle: Bundle,
    client: triton.InferenceServerClient,
    task: str,
    binary_in: bool,
    binary_out: bool,
) -> None:
    x = frames(bundle, task, count=3)
    wanted = [triton.InferRequestedOutput("y", binary_data=binary_out)]
    result = client.infer(task, given(x, binary_in), outputs=wanted, request_id="frame 7")
    y = result.as_numpy("y")
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, expected(bundle, task, x))
    answer = result.get_response()
    assert answer["id"] == "frame 7"
    assert (answer["model_name"], answer["model_version"]) == (task, "1")
    assert answer["parameters"]["device"] == "cpu" and answer["parameters"]["latency_seconds"] > 0
    assert ("data" in answer["outputs"][0]) is not binary_out


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_compressed_requests_are_unpacked(
    bundle: Bundle, client: triton.InferenceServerClient, packed: str
) -> None:
    x = frames(bundle, "seg")
    result = client.infer(
        "seg",
        given(x, binary=True),
        model_version="1",
        request_compression_algorithm=packed,
        response_compression_algorithm=packed,
    )
    np.testing.assert_array_equal(result.as_numpy("y"), expected(bundle, "seg", x))


def test_metadata_and_health(bundle: Bundle, client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    server = client.get_server_metadata()
    assert server["name"] == "moesaic" and server["extensions"] == ["binary_tensor_data"]
    index = client.get_model_repository_index()
    assert [(model["name"], model["state"]) for model in index] == [
        ("seg", "READY"),
        ("depth", "READY"),
    ]
    for task, graph in bundle.graphs.items():
        for version in ("", "1"):
            assert client.is_model_ready(task, version)
            model = client.get_model_metadata(task, version)
            assert (model["name"], model["versions"]) == (task, ["1"])
            for tensors, name, shape in (
                (model["inputs"], "x", graph.input_shape),
                (model["outputs"], "y", graph.heads[0].shape),
            ):
                assert tensors == [{"name": name, "datatype": "FP32", "shape": [-1, *shape[1:]]}]
    assert not client.is_model_ready("night")
    assert not client.is_model_ready("seg", "2")


def test_errors_reach_the_client_in_words(client: triton.InferenceServerClient) -> None:
    x = np.zeros((1, 3), np.float32)
    with pytest.raises(triton.InferenceServerException, match=r"shape \[N, 160\]") as caught:
        client.infer("seg", given(x, binary=True))
    assert caught.value.status() == "400"


def test_flat_and_nested_data_are_the_same(bundle: Bundle, running: Running) -> None:
    x = frames(bundle, "depth", count=2)
    flat = json_request(x)
    flat["inputs"][0]["data"] = x.reshape(-1).tolist()
    answers = [
        running.ask("POST", "/v2/models/depth/infer", body).json["outputs"][0]["data"]
        for body in (json_request(x), flat)
    ]
    assert answers[0] == answers[1]
    got = np.array(answers[0], np.float32).reshape(2, -1)
    np.testing.assert_array_equal(got, expected(bundle, "depth", x))


def test_outputs_default_to_all_of_them_in_json(bundle: Bundle, running: Running) -> None:
    x = frames(bundle, "seg")
    body, headers = binary_request(x, parameters={}, outputs=[])
    reply = running.ask("POST", "/v2/models/seg/infer", body, headers)
    assert reply.status == 200 and "id" not in reply.json
    assert "Inference-Header-Content-Length" not in reply.headers
    assert [output["name"] for output in reply.json["outputs"]] == ["y"]


def test_integers_are_numbers_too(bundle: Bundle, running: Running) -> None:
    body = json_request(np.zeros((1, 160), np.int64))
    reply = running.ask("POST", "/v2/models/seg/infer", body)
    assert reply.status == 200
    y = np.array(reply.json["outputs"][0]["data"], np.float32)
    zeros = np.zeros((1, 160), np.float32)
    np.testing.assert_array_equal(y, expected(bundle, "seg", zeros)[0])


@pytest.mark.parametrize("task", ["seg", "depth"])
def test_example_runs(bundle: Bundle, running: Running, task: str) -> None:
    example = Path(__file__).parents[2] / "examples" / "triton_client.py"
    command = [sys.executable, str(example), "--url", running.address, "--task", task]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shape = (1, *bundle.graphs[task].heads[0].shape[1:])
    assert f"y: shape {shape}, float32" in done.stdout and "on cpu" in done.stdout


def test_answers_come_from_the_gateware(bundle: Bundle) -> None:
    """Client, protocol, session, C driver and RTL in one piece."""
    session = Session(bundle, ["sim", "cpu"])
    with serving(session, Limits()) as running:
        with triton.InferenceServerClient(running.address) as opened:
            for task in ("seg", "depth", "seg"):
                x = frames(bundle, task, count=2)
                result = opened.infer(task, given(x, binary=True))
                np.testing.assert_array_equal(result.as_numpy("y"), expected(bundle, task, x))
                assert result.get_response()["parameters"]["device"] == "sim"
