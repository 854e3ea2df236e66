"""The reference model: shapes at odd sizes, routing arithmetic, checkpoints, presets."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from moesaic.models.config import PRESETS, M3ViTConfig, preset
from moesaic.models.layers import MoE
from moesaic.models.m3vit import (
    M3ViT,
    load_checkpoint,
    random_model,
    save_checkpoint,
    with_upsample_heads,
)

ODD = [
    M3ViTConfig(
        height=24, width=32, patch=8, dim=40, heads=5, depth=2, moe_layers="all",
        experts=3, top_k=1, expert_hidden=24, class_token=False,
    ),
    M3ViTConfig(
        height=16, width=80, patch=16, dim=72, heads=4, depth=3, moe_layers="alternate",
        experts=12, top_k=4, expert_hidden=100, mlp_ratio=2.5, gate_mode="softmax_topk_renorm",
    ),
    M3ViTConfig(
        height=56, width=80, patch=8, dim=40, heads=1, depth=2, moe_layers="none",
        class_token=False, attention="sdpa",
    ),
    M3ViTConfig(
        height=16, width=64, patch=16, dim=42, heads=2, depth=2, experts=5, top_k=3,
        expert_hidden=7, tasks=(("normals", 3),),
    ),
]  # fmt: skip


def image_of(config: M3ViTConfig, count: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, config.height, config.width, generator=generator)


@pytest.mark.parametrize("config", ODD, ids=lambda config: f"dim{config.dim}x{config.tokens}")
@torch.no_grad()
def test_forward_odd_sizes(config: M3ViTConfig) -> None:
    model = random_model(config, 3)
    image = image_of(config)
    for task, channels in config.tasks:
        output = model(image, task)
        assert output.shape == (2, channels, config.height, config.width)
        assert output.isfinite().all()
        # Images differ, so outputs must; and an image's output must not depend on its batch.
        assert (output[0] - output[1]).abs().max() > 0.05
        torch.testing.assert_close(model(image[1:], task)[0], output[1], atol=1e-5, rtol=1e-5)


def test_presets_match_the_published_shapes() -> None:
    nano, tiny = preset("nano"), preset("tiny")
    assert (nano.tokens, nano.dim, nano.mlp_hidden, nano.experts) == (33, 96, 384, 8)
    assert (tiny.tokens, tiny.dim, tiny.mlp_hidden) == (129, 192, 768)
    assert (tiny.experts, tiny.expert_hidden, tiny.top_k, tiny.depth) == (16, 384, 2, 12)
    assert [tiny.is_moe(layer) for layer in range(4)] == [False, True, False, True]


def test_tiny_macs_match_the_facts_sheet() -> None:
    """782.7 M multiply-accumulates per frame, counted from the modules' own shapes."""
    config = preset("tiny")
    model = M3ViT(config)
    macs = model.patch_embed.weight.numel() * config.patches
    for block in model.blocks:
        macs += config.tokens * sum(
            layer.weight.numel() for layer in (block.attention.qkv, block.attention.proj)
        )
        macs += 2 * config.tokens**2 * config.dim
        if isinstance(block.mlp, MoE):
            expert = block.mlp.experts[0]
            weights = expert.fc1.weight.numel() + expert.fc2.weight.numel()
            gate = block.mlp.gates["seg"].weight.numel()
            macs += config.tokens * (config.top_k * weights + gate)
        else:
            macs += config.tokens * (block.mlp.fc1.weight.numel() + block.mlp.fc2.weight.numel())
    assert macs == pytest.approx(782.7e6, abs=0.05e6)


@pytest.mark.parametrize("mode", ["softmax_topk", "softmax_topk_renorm"])
@torch.no_grad()
def test_moe_is_the_formula(mode: str) -> None:
    """Token by token: softmax over all experts, best k, weighted sum of those experts."""
    config = dataclasses.replace(preset("nano"), gate_mode=mode, dim=24, experts=6, top_k=3)
    layer = random_model(config, 5).moe_layers()[0]
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros_like(x)
    for n in range(2):
        for t in range(7):
            logits = layer.gates["depth"].weight @ x[n, t]
            gates = (logits.exp() / logits.exp().sum()).tolist()
            best = sorted(range(6), key=lambda e: -gates[e])[:3]
            scale = sum(gates[e] for e in best) if mode == "softmax_topk_renorm" else 1.0
            for e in best:
                expert = layer.experts[e]
                hidden = expert.fc1.weight @ x[n, t] + expert.fc1.bias
                hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
                y = expert.fc2.weight @ hidden + expert.fc2.bias
                expected[n, t] += gates[e] / scale * y
    torch.testing.assert_close(layer(x, "depth"), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_training_form_equals_dense_form() -> None:
    model = random_model(preset("nano"), 7)
    image = image_of(model.config)
    dense = model(image, "seg")
    torch.testing.assert_close(model.train()(image, "seg"), dense, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_attention_forms_agree() -> None:
    explicit = random_model(preset("nano"), 2)
    fused = random_model(dataclasses.replace(preset("nano"), attention="sdpa"), 2)
    image = image_of(explicit.config)
    torch.testing.assert_close(
        explicit(image, "depth"), fused(image, "depth"), atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_random_model_is_not_degenerate() -> None:
    """Routing differs between tokens and tasks; attention is neither flat nor one-hot."""
    model = random_model(preset("nano"), 11)
    image = image_of(model.config, count=1)
    inputs: dict[str, torch.Tensor] = {}
    first = model.blocks[1]
    first.mlp.register_forward_pre_hook(lambda _, args: inputs.update({args[1]: args[0]}))
    for task in model.config.task_names:
        model(image, task)
    chosen = {task: first.mlp.route(x, task)[1] for task, x in inputs.items()}
    assert len(chosen["seg"].unique()) >= 5
    assert not torch.equal(chosen["seg"], chosen["depth"])

    x = model.patch_embed(image).flatten(2).transpose(1, 2) + model.position[:, 1:]
    attention = model.blocks[0].attention
    q, k, _ = attention.qkv(model.blocks[0].norm1(x)).unflatten(-1, (3, 3, 32)).unbind(2)
    weights = F.softmax(torch.einsum("nqhd,nkhd->nhqk", q, k) / 32**0.5, dim=-1)
    entropy = -(weights * weights.log()).sum(-1).mean() / torch.tensor(32.0).log()
    assert 0.2 < entropy < 0.95


def test_random_model_is_reproducible() -> None:
    one, two, other = (random_model(ODD[0], seed).state_dict() for seed in (4, 4, 5))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_checkpoint_round_trip(tmp_path) -> None:
    model = random_model(ODD[1], 1)
    save_checkpoint(model, tmp_path / "model.pt")
    loaded = load_checkpoint(tmp_path / "model.pt")
    assert loaded.config == model.config and not loaded.training
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint"])
def test_checkpoint_refuses_what_it_cannot_read(tmp_path, content: bytes | None) -> None:
    path = tmp_path / "model.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="model.pt must"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "dim must be a multiple of heads"),
        ({"height": 60}, "height must be a multiple of the patch size 16, not 60"),
        ({"top_k": 9}, "top_k must be at most the number of experts"),
        ({"moe_layers": "odd"}, "moe_layers must be one of"),
        ({"gate_mode": "noisy"}, "gate_mode must be one of"),
        ({"depth": 0}, "depth must be at least 1, not 0"),
        ({"tasks": ()}, "tasks must name at least one task"),
    ],
)
def test_config_refuses(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["nano"], **change)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="preset must be one of"):
        preset("huge")
    with pytest.raises(ValueError, match="task must be one of .*, not 'flow'"):
        preset("nano").channels("flow")


@torch.no_grad()
def test_up_sampling_heads_on_another_backbone() -> None:
    backbone = random_model(ODD[3], 3)
    model = with_upsample_heads(backbone, width=6, seed=1)
    assert (model.config.head, model.config.head_width) == ("upsample", 6)
    image = image_of(model.config)
    output = model(image, "normals")
    assert output.shape == (2, 3, 16, 64) and output.isfinite().all()
    assert (output[0] - output[1]).abs().max() > 0.05
    for name, value in backbone.state_dict().items():
        if not name.startswith("heads."):
            assert torch.equal(model.state_dict()[name], value)
    again, other = (with_upsample_heads(backbone, width=6, seed=seed) for seed in (1, 2))
    assert torch.equal(again(image, "normals"), output)
    assert not torch.equal(other(image, "normals"), output)


def test_up_sampling_needs_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="patch must be a power of two .* not 12"):
        M3ViTConfig(height=24, width=24, patch=12, head="upsample")
