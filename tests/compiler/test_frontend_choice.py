"""Files that leave something open: symbolic sizes, several outputs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from moesaic.cli.console import read_dims, read_outputs
from moesaic.compiler.accuracy.bundle import measure_bundle
from moesaic.compiler.driver import compile
from moesaic.compiler.estimate.models import shapes_of_onnx
from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.frontend.choose import read_choices
from moesaic.compiler.ir import Choice
from moesaic.spec.bundle import load_bundle
from moesaic.spec.errors import UserError
from tests.compiler.onnx_vit import CHANNELS, Vit
from tests.compiler.test_frontend_opsets import Plain
from tests.compiler.validated import compare, samples_for


class Symbolic(Plain):
    """Positions by sines of the place, so that images may have any size."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.patches(x).flatten(2).transpose(1, 2)
        place = torch.arange(rows.shape[1])[:, None] * torch.linspace(0.1, 1.0, rows.shape[2])
        x = rows + torch.sin(place)
        frames, count, width = x.shape
        parts = self.joint(self.first(x)).reshape(frames, count, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query @ key.transpose(-2, -1)) * (width // self.heads) ** -0.5
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(frames, count, width)
        x = x + self.out(mixed)
        x = x + self.down(nn.functional.gelu(self.up(self.second(x))))
        return self.head(self.last(x))


@pytest.fixture(scope="module")
def symbolic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("symbolic") / "model.onnx"
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Symbolic().eval(), (torch.zeros(1, 3, 16, 16),), str(path), dynamo=False,
            opset_version=17, input_names=["x"],
            dynamic_axes={"x": {0: "batch", 2: "height", 3: "width"}},
        )  # fmt: skip
    return path


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 24), (32, 12)])
def test_numbers_for_symbolic_dimensions(symbolic: Path, height: int, width: int) -> None:
    choice = Choice({"height": height, "width": width, "another model's": 3})
    graph = load_graph(symbolic, choice=choice)
    assert graph.input_shape == (1, 3, height, width) and graph.tokens == height * width // 16
    assert graph.choice == Choice({"height": height, "width": width})
    assert compare(graph, symbolic).worst < 0.25
    x = samples_for(graph)
    session = onnxruntime.InferenceSession(symbolic, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    assert np.abs(run_float(graph, x) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("dims", "missing"), [({}, "height"), ({"height": 8}, "width"), ({"batch": 2}, "height")]
)
def test_dimensions_without_a_number(symbolic: Path, dims: dict[str, int], missing: str) -> None:
    with pytest.raises(UserError, match=f"'{missing}'.* by --dim {missing}=NUMBER"):
        load_graph(symbolic, choice=Choice(dims))


def test_dimension_without_a_name(tmp_path: Path) -> None:
    proto = Vit().proto()
    proto.graph.input[0].type.tensor_type.shape.dim[3].Clear()
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="by --dim 3=NUMBER"):
        load_graph(tmp_path / "model.onnx")
    assert load_graph(tmp_path / "model.onnx", choice=Choice({"3": 12})).input_shape[3] == 12
    with pytest.raises(UserError):  # no whole number of patches for the position embedding
        load_graph(tmp_path / "model.onnx", choice=Choice({"3": 16}))


@pytest.mark.parametrize("name", ["batch", "hight"])
def test_dimension_that_no_model_has(symbolic: Path, name: str) -> None:
    """The batch needs no number: frames run one after the other."""
    choice = Choice({"height": 8, "width": 8, name: 4})
    with pytest.raises(UserError, match=f"no input has a symbolic dimension '{name}'"):
        shapes_of_onnx(symbolic, choice=choice)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "8"])
def test_number_that_is_no_size(size: Any) -> None:
    with pytest.raises(UserError, match="dimension 'height' must be a number from 1 on"):
        read_choices(["seg"], {"height": size})


def test_output_of_no_task() -> None:
    with pytest.raises(UserError, match="for the task 'depth', but there are only seg"):
        read_choices(["seg"], outputs={"depth": "features"})


# -- several outputs ----------------------------------------------------------------------------


class TwoHeads(Vit):
    """Classes of the class token, and features of all tokens."""

    def finish(self, x: str, count: int) -> str:
        tokens = self.layer_norm(x)
        self.features = self.dense(tokens, CHANNELS, 4)
        token = self.op("Gather", tokens, self.ints(0), axis=1)
        return self.reshape(self.dense(token, CHANNELS, 5), 1, 5)


def two_outputs(path: Path) -> tuple[Path, list[str]]:
    vit = TwoHeads(head="two", mlp="loop")
    proto = vit.proto()
    features = helper.make_tensor_value_info(vit.features, TensorProto.FLOAT, None)
    proto.graph.output.append(features)
    onnx.save(proto, path)
    return path, [value.name for value in proto.graph.output]


def test_each_of_two_outputs(tmp_path: Path) -> None:
    path, names = two_outputs(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for name, shape in zip(names, [(1, 5), (1, 7, 4)], strict=True):
        graph = load_graph(path, choice=Choice(outputs=(name,)))
        assert graph.heads[0].tensor == name and graph.heads[0].shape == shape
        assert graph.choice.outputs == (name,) and compare(graph, path).worst < 0.25
        x = samples_for(graph, 1)
        (expected,) = session.run([name], {"x": x})
        assert np.abs(run_float(graph, x) - expected).max() < 1e-5 * np.abs(expected).max()


def test_output_that_is_not_chosen_or_not_there(tmp_path: Path) -> None:
    path, names = two_outputs(tmp_path / "model.onnx")
    assert [head.tensor for head in load_graph(path).heads] == names
    with pytest.raises(UserError, match=f"has no output 'depth', only '{names[0]}', '{names[1]}'"):
        load_graph(path, choice=Choice(outputs=("depth",)))


def test_what_another_output_needs_is_left_out(tmp_path: Path) -> None:
    """Also where it could not be read, or run for one frame."""
    path, names = two_outputs(tmp_path / "model.onnx")
    proto = onnx.load(path)
    proto.graph.node.append(helper.make_node("NonZero", [names[1]], ["places"]))
    proto.graph.output.append(helper.make_tensor_value_info("places", TensorProto.INT64, None))
    onnx.save(proto, path)
    graph = load_graph(path, choice=Choice(outputs=(names[0],)))
    assert graph.host is None and compare(graph, path).worst < 0.25


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Both outputs of one file, a task each."""
    folder = tmp_path_factory.mktemp("bundle")
    path, names = two_outputs(folder / "model.onnx")
    x = np.random.default_rng(0).standard_normal((6, 3, 8, 12)).astype(np.float32)
    outputs = dict(zip(("classes", "tokens"), names, strict=True))
    report = compile(dict.fromkeys(outputs, path), "nano", x, folder / "bundle", outputs=outputs)
    return folder, report


def test_two_tasks_of_one_file(bundle: tuple[Path, dict[str, Any]]) -> None:
    """They share the weights of the trunk."""
    folder, report = bundle
    assert [task["sqnr_db"] > 15 for task in report["tasks"].values()] == [True, True]
    streams = [task["weight_stream_bytes"] for task in report["tasks"].values()]
    assert report["weight_bytes"] < 0.8 * sum(streams)
    chosen = {name: task["choice"] for name, task in report["tasks"].items()}
    assert all(len(choice["outputs"]) == 1 and choice["dims"] == {} for choice in chosen.values())


def test_accuracy_reads_the_file_as_the_bundle_did(bundle: tuple[Path, dict[str, Any]]) -> None:
    folder, report = bundle
    loaded = load_bundle(folder / "bundle")
    x = np.random.default_rng(1).standard_normal((3, 3, 8, 12)).astype(np.float32)

    other = onnx.load(folder / "model.onnx")
    other.producer_name = "somebody else"
    onnx.save(other, folder / "other.onnx")

    def measure() -> None:
        measure_bundle(loaded, {"x": x}, {"tokens": folder / "other.onnx"}, {}, {}, lambda *_: None)

    with pytest.raises(UserError, match="is not the file that task tokens was compiled from"):
        measure()
    for wrong in ({"dims": {}, "outputs": 3}, {"dims": {"x": "y"}, "outputs": []}, 7):
        loaded.report["tasks"]["tokens"]["choice"] = wrong
        with pytest.raises(UserError, match="the bundle is damaged: .*choice"):
            measure()


# -- on the command line ------------------------------------------------------------------------


def test_dimensions_on_the_command_line() -> None:
    assert read_dims(["height=224", "a=b=3"]) == {"height": 224, "a=b": 3}
    for wrong in ("height", "height=", "=3", "height=x", "height=-1", "height=²"):
        with pytest.raises(UserError, match="--dim takes NAME=NUMBER"):
            read_dims([wrong])
    with pytest.raises(UserError, match="names 'height' twice"):
        read_dims(["height=1", "height=2"])


def test_outputs_on_the_command_line() -> None:
    assert read_outputs(["seg=a=b", "depth=c"], ["seg", "depth"]) == {
        "seg": ["a=b"],
        "depth": ["c"],
    }
    assert read_outputs(["a=b"], ["seg"]) == {"seg": ["a=b"]}
    for wrong in ("c", "other=c"):
        with pytest.raises(UserError, match=r"takes TASK=NAME .*\(seg, depth\)"):
            read_outputs([wrong], ["seg", "depth"])
    assert read_outputs(["a", "seg=b"], ["seg"]) == {"seg": ["a", "b"]}
    with pytest.raises(UserError, match="an output of task 'seg' is chosen twice"):
        read_choices(["seg"], outputs={"seg": ["a", "a"]})
