"""Several outputs of exports of timm and transformers, at small sizes with random weights.

They need the extra ``zoo``, without which they are skipped.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moesaic.compiler.frontend import load_graph
from tests.compiler.validated import compare

SIZES: dict[str, Any] = dict(
    hidden_size=24, num_hidden_layers=4, num_attention_heads=3, intermediate_size=48, image_size=28,
    patch_size=7, attn_implementation="eager",
)  # fmt: skip
Function = Callable[[nn.Module, Tensor], tuple[Tensor, ...]]


class Given(nn.Module):
    """A model, and what is taken of it."""

    def __init__(self, model: nn.Module, take: Function) -> None:
        super().__init__()
        self.model, self.take = model, take

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.take(self.model, x)


def check(
    model: nn.Module, take: Function, folder: Path, partition: bool | None = None
) -> tuple[list[int], list[bool]]:
    """Depths of the heads, and which read the stream itself; all are compared with the file."""
    path, x = folder / "model.onnx", torch.zeros(1, 3, 28, 28)
    given = Given(model, take).eval()
    names = [f"y{number}" for number in range(len(given(x)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            given, (x,), str(path), dynamo=False, opset_version=17, input_names=["x"],
            output_names=names,
        )  # fmt: skip
    graph = load_graph(path, partition=partition)
    assert compare(graph, path).worst < 0.25
    assert (graph.host is not None) == bool(partition)
    if graph.host is None:
        assert [head.tensor for head in graph.heads] == names
    return [h.depth for h in graph.heads], [h.norm.plain for h in graph.heads]


def timm_vit(**more: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model: nn.Module = timm.models.vision_transformer.VisionTransformer(
        img_size=28, patch_size=7, embed_dim=24, depth=4, num_heads=3, num_classes=7, **more
    )
    return model


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("layout", ["NCHW", "NLC"])
@pytest.mark.parametrize("registers", [0, 2])
def test_forward_intermediates(tmp_path: Path, norm: bool, layout: str, registers: int) -> None:
    def take(model: Any, x: Tensor) -> tuple[Tensor, ...]:
        found = model.forward_intermediates(x, indices=[0, 1, 3], norm=norm, output_fmt=layout)
        return found[0], *found[1]

    depths, plain = check(timm_vit(reg_tokens=registers, init_values=0.1), take, tmp_path)
    assert depths == [8, 2, 4, 8] and plain == [False] + 3 * [not norm]


def test_get_intermediate_layers(tmp_path: Path) -> None:
    def take(model: Any, x: Tensor) -> tuple[Tensor, ...]:
        pairs = model.get_intermediate_layers(x, [0, 2, 3], return_prefix_tokens=True, norm=True)
        return tuple(part for pair in pairs for part in pair)

    depths, plain = check(timm_vit(), take, tmp_path)
    assert depths == [2, 2, 6, 6, 8, 8] and not any(plain)


def transformer(name: str, config: str, **more: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, name)(
        getattr(transformers, config)(**{**SIZES, **more})
    )
    return model


def test_hidden_states(tmp_path: Path) -> None:
    def take(model: Any, x: Tensor) -> tuple[Tensor, ...]:
        found = model(x, output_hidden_states=True)
        return found.last_hidden_state, *found.hidden_states

    depths, plain = check(transformer("ViTModel", "ViTConfig"), take, tmp_path)
    assert depths == [8, 0, 2, 4, 6, 8] and plain == [False, *5 * [True]]


@pytest.mark.parametrize("norm", [False, True])
def test_backbone(tmp_path: Path, norm: bool) -> None:
    model = transformer(
        "Dinov2Backbone", "Dinov2Config", mlp_ratio=2, out_features=["stage1", "stage3", "stage4"],
        apply_layernorm=norm, reshape_hidden_states=norm,
    )  # fmt: skip
    depths, plain = check(model, lambda m, x: tuple(m(x).feature_maps), tmp_path)
    assert depths == [2, 6, 8] and plain == 3 * [not norm]


def test_logits_of_two_heads(tmp_path: Path) -> None:
    def take(model: Any, x: Tensor) -> tuple[Tensor, ...]:
        found = model(x)
        return found.cls_logits, found.distillation_logits

    model = transformer("DeiTForImageClassificationWithTeacher", "DeiTConfig")
    assert check(model, take, tmp_path) == ([8, 8], [False, False])


def test_dense_prediction_decoder(tmp_path: Path) -> None:
    model = transformer(
        "DPTForDepthEstimation", "DPTConfig", backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, reassemble_factors=[4, 2, 1, 0.5],
    )  # fmt: skip
    found = check(model, lambda m, x: (m(x).predicted_depth,), tmp_path, partition=True)
    assert found == ([2, 4, 6, 8], 4 * [True])
