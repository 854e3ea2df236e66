"""What an unmodified public client gets over gRPC."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2

from moesaic.host import Session
from moesaic.host.serving.access import Access
from moesaic.host.serving.bundles import alone
from moesaic.spec.bundle import Bundle
from tests.host.grpc_calls import LIMITS, address, call, expected, given, typed
from tests.host.serving import (
    WAIT_SECONDS,
    Running,
    frames,
    serving_all,
    two_tasks,
    write_bundle,
)
from tests.host.serving_command import command, write_plugin

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return two_tasks()


@pytest.fixture(scope="module")
def running(bundle: Bundle) -> Iterator[Running]:
    with serving_all([alone(Session(bundle, ["cpu"]))], LIMITS, rpc=True) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address(running)) as opened:
        yield opened


@pytest.mark.parametrize("task", ["seg", "depth"])
def test_answers_have_the_bits_of_a_session(
    bundle: Bundle, running: Running, client: triton.InferenceServerClient, task: str
) -> None:
    x = frames(bundle, task, count=3)
    wanted = [triton.InferRequestedOutput("y")]
    result = client.infer(task, given(x), outputs=wanted, request_id="frame 7")
    y = result.as_numpy("y")
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, expected(bundle, task, x))
    answer = result.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("frame 7", task, "1")
    assert answer.parameters["device"].string_param == "cpu"
    assert answer.parameters["latency_seconds"].double_param > 0
    # In HTTP the same.
    body = running.infer(task, x).body
    assert body.endswith(answer.raw_output_contents[0])


def test_numbers_in_the_message(bundle: Bundle, running: Running) -> None:
    x = frames(bundle, "seg", count=2)
    answer = service_pb2.ModelInferResponse.FromString(
        call(running, "ModelInfer", typed(x).SerializeToString())
    )
    (output,) = answer.outputs
    assert not answer.raw_output_contents and (output.name, output.datatype) == ("y", "FP32")
    y = np.array(output.contents.fp32_contents, np.float32).reshape(output.shape)
    np.testing.assert_array_equal(y, expected(bundle, "seg", x))


def test_metadata_and_health(bundle: Bundle, client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.get_server_metadata().name == "moesaic"
    for task, graph in bundle.graphs.items():
        assert client.is_model_ready(task) and client.is_model_ready(task, "1")
        model = client.get_model_metadata(task)
        assert (model.name, list(model.versions), model.platform) == (task, ["1"], "moesaic")
        for (tensor,), name, shape in (
            (model.inputs, "x", graph.input_shape),
            (model.outputs, "y", graph.heads[0].shape),
        ):
            assert (tensor.name, tensor.datatype) == (name, "FP32")
            assert list(tensor.shape) == [-1, *shape[1:]]
    assert not client.is_model_ready("night") and not client.is_model_ready("seg", "2")
    with pytest.raises(triton.InferenceServerException, match="there is no model 'night'"):
        client.get_model_metadata("night")


def test_token_and_certificate(bundle: Bundle, pair: tuple[Path, Path]) -> None:
    access = Access(TOKEN, *pair)
    with serving_all([alone(Session(bundle, ["cpu"]))], LIMITS, access, rpc=True) as running:
        url = f"localhost:{running.rpc_port}"
        with triton.InferenceServerClient(url, ssl=True, root_certificates=str(pair[0])) as opened:
            assert opened.is_server_live() and opened.is_server_ready()
            token = {"authorization": f"Bearer {TOKEN}"}
            x = frames(bundle, "seg")
            for headers in (None, {"authorization": TOKEN}, {"authorization": f"Bearer {TOKEN}x"}):
                with pytest.raises(triton.InferenceServerException, match="Bearer TOKEN"):
                    opened.infer("seg", given(x), headers=headers)
            y = opened.infer("seg", given(x), headers=token).as_numpy("y")
            np.testing.assert_array_equal(y, expected(bundle, "seg", x))
        with triton.InferenceServerClient(address(running)) as opened:
            with pytest.raises(triton.InferenceServerException):
                opened.is_server_live()


def test_the_command_answers_on_both_ports(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    write_plugin(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    options = ["--grpc-port", str(port)]
    with command(tmp_path, scratch, "cpu", options, rpc_port=port) as server:
        x = frames(bundle, "seg")
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as opened:
            y = opened.infer("seg", given(x)).as_numpy("y")
        np.testing.assert_array_equal(y, expected(bundle, "seg", x))
        refused = subprocess.run(
            [sys.executable, "-m", "moesaic.cli", "serve", str(tmp_path / "bundle")]
            + ["--port", "0", *options],
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
        assert refused.returncode == 2 and "choose another --grpc-port" in refused.stderr
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == (0, "all accepted requests are answered\n")
