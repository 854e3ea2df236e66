"""What an unmodified public client gets over gRPC, and what gRPC must not open."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2

from moesaic.host import DeviceError, Session
from moesaic.host.serving.access import Access
from moesaic.host.serving.bundles import alone
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.rpc import tensors
from moesaic.host.serving.rpc.messages import CLASSES, METHODS, SERVICE
from moesaic.host.serving.rpc.wire import MOST_FIELDS
from moesaic.spec.bundle import Bundle
from tests.host.serving import (
    WAIT_SECONDS,
    Puppet,
    Running,
    frames,
    install_puppet,
    serving_all,
    two_tasks,
    write_bundle,
)
from tests.host.serving_command import command, write_plugin

TOKEN = "correct-horse-battery"
LIMITS = Limits(queue=2, body_bytes=1 << 20, body_seconds=1.0)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return two_tasks()


@pytest.fixture(scope="module")
def running(bundle: Bundle) -> Iterator[Running]:
    with serving_all([alone(Session(bundle, ["cpu"]))], LIMITS, rpc=True) as server:
        yield server


def address(running: Running) -> str:
    return f"127.0.0.1:{running.rpc_port}"


@pytest.fixture
def client(running: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address(running)) as opened:
        yield opened


def given(x: np.ndarray) -> list[triton.InferInput]:
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    return [tensor]


def typed(x: np.ndarray, task: str = "seg") -> Any:
    """A request with its numbers in it, from the public definition."""
    request = service_pb2.ModelInferRequest(model_name=task)
    tensor = request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    tensor.contents.fp32_contents.extend(x.ravel().tolist())
    return request


def call(running: Running, method: str, message: bytes, **options: Any) -> bytes:
    """A call of any bytes."""
    with grpc.insecure_channel(address(running)) as channel:
        options.setdefault("timeout", WAIT_SECONDS)
        return channel.unary_unary(f"/{SERVICE}/{method}")(message, **options)


@contextmanager
def half_deaf(port: int) -> Iterator[tuple[int, threading.Event]]:
    """A way to a port that carries all that clients say, and a little of what they are told."""
    listener, deaf, end = (
        socket.create_server(("127.0.0.1", 0)),
        threading.Event(),
        threading.Event(),
    )

    def carry(source: socket.socket, target: socket.socket, most: int) -> None:
        with suppress(OSError):
            while most > 0 and (data := source.recv(1000)):
                target.sendall(data)
                most -= len(data)
        if most <= 0:
            deaf.set()
            end.wait(WAIT_SECONDS)

    def run() -> None:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", port))
        back = threading.Thread(target=carry, args=(server, client, 20_000))
        back.start()
        carry(client, server, 1 << 30)
        back.join()
        client.close()
        server.close()

    thread = threading.Thread(target=run)
    thread.start()
    yield listener.getsockname()[1], deaf
    end.set()
    thread.join(WAIT_SECONDS)
    listener.close()


def expected(bundle: Bundle, task: str, x: np.ndarray) -> np.ndarray:
    with Session(bundle, ["cpu"]) as session:
        return session.run({"x": x}, task)["y"]


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
            (model.outputs, "y", graph.output_shape),
        ):
            assert (tensor.name, tensor.datatype) == (name, "FP32")
            assert list(tensor.shape) == [-1, *shape[1:]]
    assert not client.is_model_ready("night") and not client.is_model_ready("seg", "2")
    with pytest.raises(triton.InferenceServerException, match="there is no model 'night'"):
        client.get_model_metadata("night")


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


def test_a_message_that_does_not_come(running: Running) -> None:
    def never() -> Iterator[bytes]:
        threading.Event().wait(10)
        yield b""

    with grpc.insecure_channel(address(running)) as channel:
        stream = channel.stream_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            stream(never(), timeout=WAIT_SECONDS)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "did not arrive within 1 s" in caught.value.details()


def test_answers_that_nobody_takes_are_bounded(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose window stays shut: others are refused before the memory is gone."""
    x = frames(bundle, "seg")
    limits = Limits(answers_bytes=64 << 10)
    # More than the system's buffers take.
    monkeypatch.setattr(tensors, "write", lambda *_: bytes(32 << 20))
    with serving_all([alone(Session(bundle, ["cpu"]))], limits, rpc=True) as running:
        request = typed(x).SerializeToString()
        with half_deaf(running.rpc_port) as (port, deaf):
            any_length = [("grpc.max_receive_message_length", -1)]
            channel = grpc.insecure_channel(f"127.0.0.1:{port}", any_length)
            stuck = channel.unary_unary(f"/{SERVICE}/ModelInfer").future(request)
            assert deaf.wait(WAIT_SECONDS)
            with pytest.raises(grpc.RpcError, match="answers that clients have not taken"):
                call(running, "ModelInfer", request)
            assert running.infer("seg", x).status == 200
            assert running.metric("moesaic_rejected_total", reason="answers") == 1
            stuck.cancel()
            channel.close()


def test_the_same_queue(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    install_puppet(monkeypatch)
    gate, x = threading.Event(), frames(bundle, "seg")
    Puppet.plan = [gate]
    session = Session(bundle, ["puppet"], queue_frames=2, pause_seconds=1000.0)
    with serving_all([alone(session)], LIMITS, rpc=True) as running:
        request = typed(x).SerializeToString()
        channel = grpc.insecure_channel(address(running))
        method = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        calls = [method.future(request)]
        assert Puppet.began.acquire(timeout=WAIT_SECONDS)
        calls.append(method.future(request))
        running.await_metric(2, "moesaic_queue_depth")
        with pytest.raises(grpc.RpcError) as caught:
            method(request)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "2 requests wait already" in caught.value.details()
        trailing = dict(caught.value.trailing_metadata())
        assert int(trailing["retry-after"]) >= 1 and trailing["x-request-id"]
        assert running.metric("moesaic_requests_total", task="unknown", outcome="rejected") == 1
        assert running.infer("seg", x).status == 503  # HTTP has no queue of its own
        calls[1].cancel()  # its client leaves before a device has begun with it
        running.await_metric(1, "moesaic_requests_total", outcome="cancelled")
        running.server.drain()
        running.await_metric(1, "moesaic_queue_depth")
        with pytest.raises(grpc.RpcError, match="shutting down"):
            method(request)
        ready = channel.unary_unary(f"/{SERVICE}/ServerReady")(b"")
        assert not service_pb2.ServerReadyResponse.FromString(ready).ready
        gate.set()
        assert calls[0].result(WAIT_SECONDS)  # what was accepted is answered
        channel.close()


def test_devices_that_fail(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    install_puppet(monkeypatch)
    Puppet.plan = [DeviceError("watchdog"), ZeroDivisionError("a bug")]
    session = Session(bundle, ["puppet"], pause_seconds=0.0)
    request = typed(frames(bundle, "seg")).SerializeToString()
    with serving_all([alone(session)], LIMITS, rpc=True) as running:
        with pytest.raises(grpc.RpcError, match="puppet: watchdog") as caught:
            call(running, "ModelInfer", request)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError, match="the server failed: ZeroDivisionError") as caught:
            call(running, "ModelInfer", request)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert call(running, "ModelInfer", request)
        for outcome in ("failed", "error", "ok"):
            assert running.metric("moesaic_requests_total", task="seg", outcome=outcome) == 1


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
