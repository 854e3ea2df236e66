"""Calls to a server over gRPC: by the public client's messages, or of any bytes."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2

from moesaic.host import Session
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.rpc.messages import SERVICE
from moesaic.spec.bundle import Bundle
from tests.host.serving import (
    WAIT_SECONDS,
    Running,
)

LIMITS = Limits(queue=2, body_bytes=1 << 20, body_seconds=1.0)


def address(running: Running) -> str:
    return f"127.0.0.1:{running.rpc_port}"


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


def expected(bundle: Bundle, task: str, x: np.ndarray) -> np.ndarray:
    with Session(bundle, ["cpu"]) as session:
        return session.run({"x": x}, task)["y"]
