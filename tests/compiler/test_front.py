"""Fronts that the host runs: the trunk behind is the accelerator's, and all of it is the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from moesaic.compiler import compile, ir
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.report.partition import open_front
from moesaic.compiler.validate.compare import open_oracle, validate
from moesaic.compiler.validate.front import check_front
from moesaic.host.session import Session
from moesaic.models.tracing import INPUT_NAME
from moesaic.spec.bundle import load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.hostpart import front_frames
from moesaic.spec.hostside import quantise_input
from moesaic.spec.intgraph import IntTokens
from moesaic.spec.metrics import sqnr_db
from tests.compiler.fronts import FRONTS, IMAGE, Fronted, Upsampled, write

FORMS = pytest.mark.parametrize("form", FRONTS)


def images(count: int = 8) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, 3, IMAGE, IMAGE)).astype(np.float32)


def model(form: str, folder: Path, head: torch.nn.Module | None = None) -> Path:
    torch.manual_seed(1)
    write(Fronted(FRONTS[form](), head), folder / "model.onnx")
    return folder / "model.onnx"


@FORMS
def test_only_partition_takes_it_and_the_refusal_says_so(form: str, tmp_path: Path) -> None:
    path = model(form, tmp_path)
    for partition in (None, False):
        with pytest.raises(UserError, match="compile with --partition to leave all nodes up to"):
            load_graph(path, partition=partition)
    graph = load_graph(path, partition=True)
    assert graph.front is not None and graph.host is None
    assert isinstance(graph.embed, ir.Tokens) and len(graph.layers) == 4
    assert graph.user_input == (INPUT_NAME, (1, 3, IMAGE, IMAGE))
    assert str(tmp_path) not in graph.front.why  # paths of whoever compiles


def test_front_whose_sizes_onnx_does_not_infer(tmp_path: Path) -> None:
    """Padding that floats are computed for, as timm's hybrids have it: the batch is lost, too."""
    path = model("convolutions", tmp_path)
    proto = onnx.load(path)
    number, pool = next((n, v) for n, v in enumerate(proto.graph.node) if v.op_type == "MaxPool")
    padding = [
        helper.make_node("Shape", [pool.input[0]], ["sizes"]),
        helper.make_node("Cast", ["sizes"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "floats"], ["none"]),
        helper.make_node("Ceil", ["none"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["ends"], to=onnx.TensorProto.INT64),
        helper.make_node("Concat", ["ends", "ends"], ["pads"], axis=0),
        helper.make_node("Pad", [pool.input[0], "pads"], ["padded"]),
    ]
    register = next(v for v in proto.graph.initializer if list(v.dims)[:2] == [1, 1]).name
    padding += [
        helper.make_node("Gather", ["ends", "first three"], ["three"]),
        helper.make_node("Add", ["three", "one"], ["once"]),
        helper.make_node("Tile", [register, "once"], ["token"]),
    ]
    pool.input[0] = "padded"
    joined = next(v for v in proto.graph.node if v.op_type == "Concat" and register in v.input)
    joined.input[list(joined.input).index(register)] = "token"
    rows = next(node for node in proto.graph.node if node.op_type == "Reshape")
    for name, numbers in (("as many", [0, 0, -1]), ("first three", [0, 1, 2]), ("one", [1])):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(numbers), name))
    rows.input[1] = "as many"
    for node in reversed(padding):
        proto.graph.node.insert(number, node)
    del proto.graph.value_info[:]
    onnx.save(proto, path)
    graph = load_graph(path, partition=True)
    assert graph.front is not None and len(graph.layers) == 4
    streams = front_frames(open_front(graph), graph.user_input[0], images())
    check_front(path, graph, open_oracle(path, graph), images(), streams)
    # Done already: the way out of a refusal is no reason.
    assert "cut the graph" not in graph.front.why and "(Conv)" in graph.front.why


@FORMS
def test_front_and_trunk_are_what_onnx_runtime_computes(form: str, tmp_path: Path) -> None:
    path = model(form, tmp_path)
    graph = load_graph(path, partition=True)
    oracle, front = open_oracle(path, graph), open_front(graph)
    streams = front_frames(front, graph.user_input[0], images())
    check_front(path, graph, oracle, images(), streams)
    found = validate(graph, oracle, streams)
    first = isinstance(graph.streams[0], ir.Stream) and graph.streams[0].tensor != graph.input_name
    assert found.points == len(graph.layers) + 1 + first and found.worst < 1
    # Another front, and another layer, are found out.
    with pytest.raises(UserError, match="it computes something else"):
        check_front(path, graph, oracle, images(), 1.01 * streams)
    layer = graph.layers[0]
    assert isinstance(layer, ir.Attention)
    layer.output.weight[0] *= 1.1
    with pytest.raises(UserError, match="layer 0 at .* was not recognised for what it is"):
        validate(graph, oracle, streams)


def test_a_front_that_is_another_model_is_refused(tmp_path: Path) -> None:
    path = model("convolutions", tmp_path)
    graph = load_graph(path, partition=True)
    assert graph.front is not None
    changed = onnx.load_model_from_string(graph.front.model)
    weight = next(t for t in changed.graph.initializer if t.name.endswith("stem.0.weight"))
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))
    graph.front = replace(graph.front, model=changed.SerializeToString())
    streams = front_frames(open_front(graph), graph.user_input[0], images())
    with pytest.raises(UserError, match="it computes something else"):
        check_front(path, graph, open_oracle(path, graph), images(), streams)


def test_a_plain_model_has_no_front(tmp_path: Path) -> None:
    """Nothing is left to the host that the accelerator takes."""
    torch.manual_seed(1)

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = torch.nn.Conv2d(3, 32, 8, 8)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.patches(image).flatten(2).transpose(1, 2)

    write(Fronted(Plain()), tmp_path / "model.onnx")
    graph = load_graph(tmp_path / "model.onnx", partition=True)
    assert graph.front is None and isinstance(graph.embed, ir.Embed)


def test_bundle_of_both_ends(tmp_path: Path) -> None:
    """Host, accelerator, host; every device begins with the same int16 stream."""
    path, given = model("interpolated positions", tmp_path, Upsampled()), images(12)
    report = compile(path, "nano", given, tmp_path / "bundle", partition=True)["tasks"]["default"]
    assert report["front"]["inputs"] == {INPUT_NAME: [1, 3, IMAGE, IMAGE]}
    assert report["host"] and report["front"]["accelerator_nodes"] > 40
    assert report["host"]["accelerator_nodes"] == report["front"]["accelerator_nodes"]
    assert report["front"]["cut"]["sqnr_db"] > 70 and report["sqnr_db"] > 25
    assert "Resize" in report["front"]["why"]
    bundle = load_bundle(tmp_path / "bundle")
    graph = bundle.graphs["default"]
    assert isinstance(graph.embed, IntTokens) and graph.input_scale == graph.residual_scale
    codes = quantise_input(graph, bundle.sample("default", "input"))
    assert codes.dtype == np.int16 and abs(codes.astype(int)).max() > 1 << 12
    import onnxruntime

    runtime = onnxruntime.InferenceSession(path)
    wanted = np.concatenate([runtime.run(None, {INPUT_NAME: frame[None]})[0] for frame in given])
    with Session(bundle, "cpu") as session:
        (found,) = session.run({INPUT_NAME: given}).values()
        with pytest.raises(UserError, match="needs the input 'image'"):
            session.run({graph.input_name: given})
    assert sqnr_db(wanted, found) > 25


def test_simulated_accelerator_loads_the_stream(tmp_path: Path) -> None:
    """LOAD from the INPUT window to the residual scratchpad, bit for bit as the reference."""
    path = model("convolutions", tmp_path)
    compile(path, "nano", images(), tmp_path / "bundle", partition=True)
    answers = {}
    for device in ("cpu", "sim"):
        with Session(tmp_path / "bundle", device) as session:
            answers[device] = session.run({INPUT_NAME: images(1)})
    assert np.array_equal(answers["sim"].result.codes, answers["cpu"].result.codes)
    assert np.abs(answers["cpu"].result.codes.astype(int)).max() > 1 << 10
