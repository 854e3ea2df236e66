"""Models of several tasks: `seg+depth` is one request, one image and one answer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from moesaic.host import DeviceError, Session
from moesaic.host.serving import models
from moesaic.host.serving.bundles import Served, alone
from moesaic.host.serving.errors import RequestError
from moesaic.host.serving.limits import Limits
from moesaic.host.serving.models import Models
from moesaic.spec.bundle import Bundle
from tests.host import serving as helpers
from tests.host.joint_devices import KINDS, Plain, forget, three_tasks
from tests.host.known_devices import know_devices
from tests.host.serving import Running, json_request, serving_all


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Its tasks have the outputs ``y``, ``y`` and ``edges``."""
    made = three_tasks()
    edge = made.graphs["edge"]
    (head,) = edge.heads
    heads = [dataclasses.replace(head, name="edges")]
    graphs = {**made.graphs, "edge": dataclasses.replace(edge, heads=heads)}
    return dataclasses.replace(made, graphs=graphs)


@pytest.fixture(scope="module")
def x(bundle: Bundle) -> np.ndarray:
    return helpers.frames(bundle, "seg", 2)


@pytest.fixture(scope="module")
def wanted(bundle: Bundle, x: np.ndarray) -> dict[str, np.ndarray]:
    with Session(bundle, "cpu") as session:
        answers = {task: session.run({"x": x}, task) for task in bundle.tasks}
    return {
        "seg.y": answers["seg"]["y"],
        "depth.y": answers["depth"]["y"],
        "edges": answers["edge"]["edges"],
    }


@pytest.fixture
def running(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    forget()
    know_devices(monkeypatch, **KINDS)
    session = Session(bundle, ["joint", "cpu"], pause_seconds=1000.0)
    with serving_all([alone(session)], Limits(), rpc=True) as started:
        yield started


def test_outputs_have_the_tasks_names_where_they_collide(running: Running, bundle: Bundle) -> None:
    told = running.ask("GET", "/v2/models/seg+depth+edge").json
    (source,) = running.ask("GET", "/v2/models/seg").json["inputs"]
    assert told["name"] == "seg+depth+edge" and told["inputs"] == [source]
    assert [output["name"] for output in told["outputs"]] == ["seg.y", "depth.y", "edges"]
    shapes = [[-1, *bundle.graphs[task].heads[0].shape[1:]] for task in bundle.tasks]
    assert [output["shape"] for output in told["outputs"]] == shapes
    told = running.ask("GET", "/v2/models/seg+edge/versions/1").json
    assert [output["name"] for output in told["outputs"]] == ["y", "edges"]
    assert running.ask("GET", "/v2/models/seg%2Bdepth/ready").json["ready"] is True
    index = running.ask("POST", "/v2/repository/index", {}).json
    assert [model["name"] for model in index] == ["seg", "depth", "edge"]


def test_answer_has_the_bits_of_each_task(
    running: Running, x: np.ndarray, wanted: dict[str, np.ndarray]
) -> None:
    reply = running.infer("seg+depth+edge", x)
    assert reply.status == 200
    assert reply.body.endswith(b"".join(array.tobytes() for array in wanted.values()))
    assert Plain.calls == [("seg+depth", 2), ("edge", 2)]
    reply = running.ask("POST", "/v2/models/seg+depth/infer", json_request(x, id="7"))
    assert reply.json["model_name"] == "seg+depth" and reply.json["id"] == "7"
    for output in reply.json["outputs"]:
        array = np.array(output["data"], np.float32).reshape(output["shape"])
        assert np.array_equal(array, wanted[output["name"]])
    labels = {"task": "seg+depth", "device": "joint"}
    assert running.metric("moesaic_requests_total", task="seg+depth", outcome="ok") == 1
    assert running.metric("moesaic_batch_frames_sum", **labels) == 2
    assert running.metric("moesaic_request_seconds_count", **labels) == 1


def test_some_of_the_outputs(
    running: Running, x: np.ndarray, wanted: dict[str, np.ndarray]
) -> None:
    reply = running.ask(
        "POST",
        "/v2/models/seg+depth/infer",
        *helpers.binary_request(x, outputs=[{"name": "depth.y"}]),
    )
    tail = wanted["depth.y"].tobytes()
    assert reply.status == 200 and reply.body.endswith(tail)
    (output,) = json.loads(reply.body[: -len(tail)])["outputs"]
    assert output["name"] == "depth.y"
    request = json_request(x, outputs=[{"name": "y"}])
    reply = running.ask("POST", "/v2/models/seg+depth/infer", request)
    assert reply.status == 400 and "its outputs are: seg.y, depth.y" in reply.error


def test_grpc_has_them_too(running: Running, x: np.ndarray, wanted: dict[str, np.ndarray]) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{running.rpc_port}") as client:
        told = client.get_model_metadata("seg+depth")
        assert [output.name for output in told.outputs] == ["seg.y", "depth.y"]
        assert client.is_model_ready("seg+depth") and not client.is_model_ready("depth+seg")
        tensor = triton.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        answer = client.infer("seg+depth", [tensor])
        for name in ("seg.y", "depth.y"):
            assert np.array_equal(answer.as_numpy(name), wanted[name])


def test_next_device_answers_for_all_tasks(
    running: Running, x: np.ndarray, wanted: dict[str, np.ndarray]
) -> None:
    Plain.plan = [None, DeviceError("watchdog")]
    reply = running.infer("seg+depth+edge", x)
    assert reply.status == 200 and b'"device": "cpu"' in reply.body
    assert reply.body.endswith(b"".join(array.tobytes() for array in wanted.values()))
    assert running.metric("moesaic_failovers_total") == 1


REFUSED = {
    "depth+seg": "there is no model 'depth+seg': ask 'seg+depth'",
    "seg+seg": "there is no model 'seg+seg': ask 'seg'",
    "seg+night": "there is no model 'seg+night'; the models are: depth, edge, seg",
    "seg+": "there is no model 'seg+'; the models are",
    "+": "there is no model '+'; the models are",
    "seg+depth/versions/2": "model 'seg+depth' has version 1 only, not '2'",
}


def test_what_is_no_model_is_refused(running: Running, x: np.ndarray) -> None:
    for name, message in REFUSED.items():
        reply = running.infer(name, x)
        assert reply.status == 404 and message in reply.error
    told = {"outcome": "invalid"}
    assert running.metric("moesaic_requests_total", task="unknown", **told) == len(REFUSED) - 1
    assert running.metric("moesaic_requests_total", task="seg+depth", **told) == 1


class Still:
    """As much of a session as models need."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle


def find(bundles: list[tuple[str, Bundle]], name: str) -> Any:
    served = [
        Served(prefix, Still(one), {task: prefix + task for task in one.tasks})  # type: ignore[arg-type]
        for prefix, one in bundles
    ]
    return Models(served).find(name)


def test_tasks_of_several_bundles_are_no_model(bundle: Bundle) -> None:
    bundles = [("day.", bundle), ("night.", bundle)]
    joined = find(bundles, "night.seg+night.depth")
    assert list(joined.outputs) == ["seg.y", "depth.y"] and joined.label == joined.name
    with pytest.raises(RequestError, match="are of several bundles") as refused:
        find(bundles, "day.seg+night.depth")
    assert refused.value.status == 404


def test_tasks_of_different_inputs_are_no_model() -> None:
    with pytest.raises(RequestError, match="take different inputs") as refused:
        find([("", helpers.two_tasks())], "seg+depth")
    assert refused.value.status == 404


def test_output_that_is_called_as_a_prefixed_one(bundle: Bundle) -> None:
    edge = bundle.graphs["edge"]
    heads = [dataclasses.replace(edge.heads[0], name="seg.y")]
    graphs = {**bundle.graphs, "edge": dataclasses.replace(edge, heads=heads)}
    model = find([("", dataclasses.replace(bundle, graphs=graphs))], "seg+depth+edge")
    assert model.sources == {
        "seg.y": ("seg", "y"),
        "depth.y": ("depth", "y"),
        "edge.seg.y": ("edge", "seg.y"),
    }


def test_choices_of_many_tasks_share_a_label(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find([("", bundle)], "seg+depth").label == "seg+depth"
    monkeypatch.setattr(models, "_MOST_LABELLED", 2)
    assert find([("", bundle)], "seg+depth").label == models.JOINED
    assert find([("", bundle)], "seg").label == "seg"
