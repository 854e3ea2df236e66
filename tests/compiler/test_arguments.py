"""What `moesaic.compiler.compile` takes besides names of files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from moesaic.compiler import compile, driver
from moesaic.compiler.frontend import load_graph
from moesaic.models.config import M3ViTConfig
from moesaic.models.m3vit import random_model
from moesaic.models.tracing import SingleTask
from moesaic.spec.bundle import load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS
from tests.compiler.onnx_vit import Vit
from tests.compiler.validated import samples_for

TINY = M3ViTConfig(
    height=16, width=32, patch=16, dim=16, depth=2, heads=1, experts=3, expert_hidden=8,
    mlp_ratio=1.0, tasks=(("seg", 3),),
)  # fmt: skip


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    return SingleTask(random_model(TINY, 1), "seg")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(4, 3, 16, 32)).astype(np.float32)


def test_one_model_and_one_array_need_no_names(
    tmp_path: Path,
) -> None:
    """A path, its text and its contents, with an array and with a named one, are one bundle."""
    file = Vit(mlp="loop").save(tmp_path)
    images = samples_for(load_graph(file))
    given: list[tuple[Any, Any]] = [
        (str(file), images),
        (file, {"x": images}),
        (onnx.load(file), torch.from_numpy(images)),
    ]
    graphs = []
    for number, (model, samples) in enumerate(given):
        where = tmp_path / str(number)
        report = compile(model, "nano", samples, where, held_out=images[:1])
        assert list(report["tasks"]) == ["default"]
        graphs.append((where / "graphs.json").read_bytes())
        assert load_bundle(where).graphs["default"].input_name == "x"
    assert graphs[0] == graphs[1] == graphs[2]


def test_module_is_exported_and_left_as_it_was(
    module: torch.nn.Module, images: np.ndarray, tmp_path: Path
) -> None:
    module.train()
    module.model.blocks[0].eval()  # type: ignore[index, operator, union-attr]
    modes = [part.training for part in module.modules()]
    report = compile({"seg": module}, PRESETS["nano"], {"picture": images}, tmp_path / "b")
    assert [part.training for part in module.modules()] == modes and len(set(modes)) == 2
    assert report["tasks"]["seg"]["sqnr_db"] > 20
    graph = load_bundle(tmp_path / "b").graphs["seg"]
    assert (graph.input_name, graph.heads[0].name) == ("picture", "seg")


def test_size_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit needs no float run and no quantisation to say so, whichever the limit."""
    file = Vit(mlp="loop").save(tmp_path)
    images = samples_for(load_graph(file))

    def work(*_: object, **__: object) -> None:
        raise AssertionError("work has begun")

    for name in ("open_oracle", "validate", "Calibrated"):
        monkeypatch.setattr(driver, name, work)
    for field, size in (("accumulator_rows", 4), ("activation_bytes", 64), ("max_experts", 2)):
        arch = replace(PRESETS["nano"], **{field: size})
        with pytest.raises(UserError, match="the model does not fit target nano: "):
            compile(file, arch, images, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


class Branching(torch.nn.Module):
    """What no exporter can follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x if x.sum().item() > 0 else x


class Random(torch.nn.Module):
    """What no file computes like it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tasks": Branching()}, "torch cannot export the module of task 'default'.*give the file"),
        ({"tasks": Random()}, "computes something else once torch has exported it"),
        ({"tasks": Branching(), "calibrate": {"a": 0, "b": 0}}, "its one input, not a, b"),
        ({"tasks": {"seg": 3}}, "task 'seg' must be an ONNX file, an onnx.ModelProto or a .* int"),
        ({"tasks": ["seg.onnx"]}, "must be an ONNX file.* list"),
        ({"tasks": {3: "seg.onnx"}}, "task name must be"),
        ({"tasks": {}}, "no model given"),
        ({"calibrate": 3}, "calibrate must be an .npz file, arrays by input name, or one array"),
        ({"held_out": [1]}, "held_out must be an .npz file"),
        ({"output": 3}, "output must be a path, not a int"),
        ({"target": {"depth": 16}}, "target must be a path, not a dict"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(
    changed: dict[str, Any], message: str, images: np.ndarray, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = {"tasks": "m.onnx", "target": "nano", "calibrate": images, "output": tmp_path / "b"}
    with pytest.raises(UserError, match=message) as caught:
        compile(**{**arguments, **changed})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "") and not [*tmp_path.iterdir()]


def test_arrays_that_no_task_reads_are_noted(tmp_path: Path) -> None:
    """Labels may lie beside the samples; an input by a wrong name does not go unnoticed."""
    file = Vit().save(tmp_path)
    x = samples_for(load_graph(file))
    labels, held_out = np.zeros(4), {"x": x, "y": x}
    report = compile(
        file, "nano", {"x": x, "seg": labels, "rgb": labels}, tmp_path / "b", held_out=held_out
    )
    notes = report["tasks"]["default"]["notes"]
    assert notes[-2:] == [
        "no task reads rgb, seg of the calibration samples",
        "no task reads y of the held-out samples",
    ]
