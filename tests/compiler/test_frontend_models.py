"""Exports of the reference model with odd shapes, and the observations of the float reference."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moesaic.compiler import ir
from moesaic.compiler.float_reference import choose_experts, run_float
from moesaic.compiler.frontend import load_graph
from moesaic.models.config import M3ViTConfig
from moesaic.models.export import export_onnx
from moesaic.models.m3vit import random_model
from moesaic.models.ms_moe import export_ms_moe
from tests.compiler.onnx_vit import Vit
from tests.compiler.test_frontend_forms import compare

ODD = [
    (M3ViTConfig(height=16, width=24, patch=8, dim=40, depth=2, heads=5, experts=12,
                 expert_hidden=5, top_k=1, tasks=(("a", 1), ("b", 3))), 18),
    (M3ViTConfig(height=8, width=8, patch=8, dim=7, depth=3, heads=1, experts=5, top_k=4,
                 expert_hidden=9, mlp_ratio=1.3, moe_layers="all", class_token=False,
                 gate_mode="softmax_topk_renorm", attention="sdpa", tasks=(("d", 1),)), 20),
    (M3ViTConfig(height=12, width=20, patch=4, dim=72, depth=2, heads=4, moe_layers="none",
                 attention="sdpa", tasks=(("d", 2),)), 23),
]  # fmt: skip


@pytest.mark.parametrize(("config", "opset"), ODD)
def test_reference_model(tmp_path: Path, config: M3ViTConfig, opset: int) -> None:
    model = random_model(config, seed=3)
    task = config.task_names[-1]
    export_onnx(model, task, tmp_path / "model.onnx", opset)
    graph, error = compare(tmp_path / "model.onnx")
    assert error < 1e-5
    assert (graph.tokens, graph.channels) == (config.tokens, config.dim)
    assert graph.heads[0].shape == (1, config.channels(task), config.height, config.width)
    moes = [layer for layer in graph.layers if isinstance(layer, ir.Moe)]
    assert len(graph.layers) == 2 * config.depth and len(moes) == len(model.moe_layers())
    assert not graph.notes


def test_both_expert_forms_agree(tmp_path: Path) -> None:
    config = M3ViTConfig(height=8, width=12, patch=4, dim=20, depth=2, heads=2, experts=6,
                         top_k=3, expert_hidden=11)  # fmt: skip
    model = random_model(config, seed=5)
    export_onnx(model, "seg", tmp_path / "loop.onnx")
    export_ms_moe(model, "seg", tmp_path / "node.onnx")
    loop, _ = compare(tmp_path / "loop.onnx")
    node, error = compare(tmp_path / "node.onnx")
    assert error < 1e-5  # ONNX Runtime computes the node's GELU in the tanh form, and so do we
    assert not node.notes
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 12))
    for layer in node.layers:
        for expert in layer.experts if isinstance(layer, ir.Moe) else []:
            assert expert.activation == "gelu_tanh"
            expert.activation = "gelu"
    assert np.allclose(run_float(loop, x), run_float(node, x), rtol=0, atol=1e-12)


class Encoder(torch.nn.Module):
    """A classifier on torch's own encoder layers, which share nothing with the reference model."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 20, 4, 4)
        self.token = torch.nn.Parameter(torch.randn(1, 1, 20))
        self.position = torch.nn.Parameter(torch.randn(1, 7, 20))
        layer = torch.nn.TransformerEncoderLayer(
            20, 5, 30, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = torch.nn.LayerNorm(20), torch.nn.Linear(20, 9)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.position
        return self.head(self.norm(self.encoder(tokens))[:, 0])


def export_encoder(path: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Encoder:
    """Export an encoder of random weights by torch's older exporter, and return it."""
    torch.manual_seed(0)
    model = Encoder().eval()
    for parameter in model.parameters():  # the two layers start out equal
        parameter.data += 0.1 * torch.randn_like(parameter)
    model = model.to(dtype)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # ONNX has no such operator
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (torch.zeros(1, 3, 8, 12, dtype=dtype),),
                str(path),
                dynamo=False,
                input_names=["image"],
                **{"opset_version": 17, **options},
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return model


def test_torch_encoder_by_the_older_exporter(tmp_path: Path) -> None:
    export_encoder(tmp_path / "model.onnx", dynamic_axes={"image": {0: "batch"}})
    graph, error = compare(tmp_path / "model.onnx")
    assert error < 1e-5
    assert [type(layer) for layer in graph.layers] == [ir.Attention, ir.Mlp] * 2
    assert (graph.heads[0].first_row, graph.heads[0].rows, graph.heads[0].shape) == (0, 1, (1, 9))


def test_observations(tmp_path: Path) -> None:
    graph = load_graph(Vit(mlp="loop").save(tmp_path))
    seen: dict[str, list[torch.Tensor]] = {}
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 12))
    run_float(graph, x, lambda point, tensor: seen.setdefault(point, []).append(tensor))
    assert [tuple(t.shape) for t in seen["residual"]] == [(2, 7, 12)] * 3
    shapes = {point: tuple(tensors[0].shape) for point, tensors in seen.items()}
    assert shapes["input"] == (2, 6, 48)
    assert shapes["0.scores"] == (2, 3, 7, 7)
    for part in ("norm", "query", "key", "value", "attention"):
        assert shapes[f"0.{part}"] == (2, 7, 12)
    assert shapes["1.logits"] == (2, 7, 4) and shapes["1.norm"] == (2, 7, 12)
    assert shapes["head.norm"] == (2, 6, 12) and shapes["output"] == (2, 6, 4 * 4 * 2)
    # Each token is observed at its two experts, and each norm before gamma and beta.
    routed = [shapes[f"1.expert{e}.hidden"] for e in range(4) if f"1.expert{e}.hidden" in shapes]
    assert sum(rows for rows, _ in routed) == 2 * 7 * 2 and {w for _, w in routed} == {10}
    mean, spread = seen["1.norm"][0].mean(-1), seen["1.norm"][0].std(-1, correction=0)
    assert torch.allclose(mean, torch.zeros_like(mean), atol=1e-12)
    assert torch.allclose(spread, torch.ones_like(spread), atol=1e-4)
    dense = load_graph(Vit(mlp="dense").save(tmp_path, "dense.onnx"))
    run_float(dense, x, lambda point, tensor: shapes.update({point: tuple(tensor.shape)}))
    assert shapes["1.hidden"] == (2, 7, 10)


def test_ties_go_to_the_lower_expert() -> None:
    norm = ir.Norm(np.ones(1, np.float32), np.zeros(1, np.float32), 1e-6, "norm")
    gate = ir.Linear(np.zeros((4, 1), np.float32), np.zeros(4, np.float32), "gate")
    moe = ir.Moe(norm, gate, 2, False, [], "moe")
    weights, index = choose_experts(moe, torch.tensor([[1.0, 2.0, 1.0, 2.0], [0.0] * 4]))
    assert index.tolist() == [[1, 3], [0, 1]]
    assert torch.allclose(weights[1], torch.tensor([0.25, 0.25]))
