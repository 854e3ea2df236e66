"""ONNX export: equal to torch in ONNX Runtime, complete, in both MoE forms."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch.nn import functional as F

from moesaic.models.config import M3ViTConfig, preset
from moesaic.models.export import export_onnx, write_calibration, write_samples
from moesaic.models.m3vit import M3ViT, random_model
from moesaic.models.ms_moe import export_ms_moe
from moesaic.models.tracing import check_experts

ODD = M3ViTConfig(
    height=16, width=80, dim=40, heads=5, depth=2, moe_layers="all", experts=5, top_k=3,
    expert_hidden=28, class_token=False, gate_mode="softmax_topk_renorm", attention="sdpa",
)  # fmt: skip
NANO_2 = M3ViTConfig(depth=2)

TANH_GELU_ERROR = 4.8e-4
"""Largest difference between the tanh and the erf form of GELU; checked below."""


def run(path: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"image": image})
    return np.asarray(output)


def image_of(config: M3ViTConfig) -> torch.Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.randn(1, 3, config.height, config.width, generator=generator)


@torch.no_grad()
def torch_run(model: M3ViT, task: str, image: torch.Tensor) -> np.ndarray:
    return model(image, task).numpy()


@pytest.mark.parametrize(
    ("config", "task", "opset"), [(preset("nano"), "seg", 20), (ODD, "depth", 18)]
)
def test_dense_form_equals_torch(tmp_path, config: M3ViTConfig, task: str, opset: int) -> None:
    model = random_model(config, 1)
    proto = export_onnx(model, task, tmp_path / "m.onnx", opset)
    image = image_of(config)
    output = run(tmp_path / "m.onnx", image.numpy())
    assert output.shape == (1, config.channels(task), config.height, config.width)
    assert np.abs(output - torch_run(model, task, image)).max() < 1e-4

    assert [value.name for value in proto.graph.input] == ["image"]
    assert [value.name for value in proto.graph.output] == [task]
    dims = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [1, 3, config.height, config.width]
    nodes = Counter(node.op_type for node in proto.graph.node)
    moe = len(model.moe_layers())
    assert nodes["TopK"] == nodes["ScatterElements"] == moe
    # One activation per expert and per dense MLP: nothing dropped, nothing merged.
    activations = moe * config.experts + config.depth - moe
    assert nodes["Gelu" if opset >= 20 else "Erf"] == activations


@pytest.mark.parametrize(("config", "task"), [(NANO_2, "depth"), (ODD, "seg")])
def test_ms_moe_form_equals_dense_form(tmp_path, config: M3ViTConfig, task: str) -> None:
    model = random_model(config, 2)
    proto = export_ms_moe(model, task, tmp_path / "m.onnx")
    nodes = [node for node in proto.graph.node if node.domain == "com.microsoft"]
    assert len(nodes) == len(model.moe_layers()) and {n.op_type for n in nodes} == {"MoE"}

    image = image_of(config)
    output = run(tmp_path / "m.onnx", image.numpy())
    erf = torch_run(model, task, image)
    # With the operator's own activation the two agree to rounding ...
    for layer in model.moe_layers():
        for expert in layer.experts:
            expert.forward = lambda x, e=expert: e.fc2(F.gelu(e.fc1(x), approximate="tanh"))
    tanh = torch_run(model, task, image)
    assert np.abs(output - tanh).max() < 1e-4
    # ... and with the erf form to about the activations' difference: outputs have a standard
    # deviation near 1, and the residual path amplifies little over two blocks.
    assert 0 < np.abs(tanh - erf).max() < 4 * TANH_GELU_ERROR
    assert np.abs(output - erf).max() < 4 * TANH_GELU_ERROR


def test_tanh_gelu_error_is_what_the_module_says() -> None:
    x = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    error = (F.gelu(x) - F.gelu(x, approximate="tanh")).abs().max()
    assert 0.98 * TANH_GELU_ERROR < error < TANH_GELU_ERROR


def test_a_missing_expert_is_noticed(tmp_path) -> None:
    model = random_model(ODD, 3)
    proto = export_onnx(model, "seg", tmp_path / "m.onnx")
    check_experts(proto.graph, model)
    target = model.moe_layers()[1].experts[4].fc2.weight.detach().numpy()
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.size == target.size and np.array_equal(
            array if array.shape == target.shape else array.T, target
        ):
            tensor.CopyFrom(numpy_helper.from_array(array * 0, tensor.name))
    with pytest.raises(ValueError, match="MoE layer 1, but fc2 of expert 4 is missing"):
        check_experts(proto.graph, model)


def test_tasks_share_all_weights_but_gates_and_heads(tmp_path) -> None:
    model = random_model(ODD, 4)
    contents: list[set[bytes]] = []
    for task in ("seg", "depth"):
        proto = onnx.load(export_path(model, task, tmp_path))
        contents.append(
            {tensor.raw_data for tensor in proto.graph.initializer if len(tensor.raw_data) > 64}
        )
    own = contents[0] - contents[1]
    assert len(contents[0] & contents[1]) > 30
    gates, head = len(model.moe_layers()), 4  # norm weight and bias, linear weight and bias
    assert len(own) == gates + head


def export_path(model: M3ViT, task: str, folder: Path) -> str:
    path = folder / f"{task}.onnx"
    export_onnx(model, task, path)
    return str(path)


def test_unknown_task_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="task must be one of"):
        export_onnx(random_model(ODD, 1), "flow", tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_sample_files(tmp_path) -> None:
    write_calibration(tmp_path / "c.npz", 3, 32, 64)
    write_samples(tmp_path / "h.npz", 100, 2, 32, 64)
    with np.load(tmp_path / "c.npz") as calibration, np.load(tmp_path / "h.npz") as heldout:
        assert list(calibration) == ["image"] and calibration["image"].shape == (3, 3, 32, 64)
        assert calibration["image"].dtype == heldout["image"].dtype == np.float32
        assert heldout["seg"].shape == (2, 32, 64)
        assert heldout["depth"].shape == (2, 1, 32, 64)
