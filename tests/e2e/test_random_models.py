"""Models nobody tuned for: ONNX to bit-exact RTL through the command line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from moesaic.models.config import M3ViTConfig
from moesaic.models.m3vit import random_model
from moesaic.models.ms_moe import export_ms_moe
from tests.compiler.onnx_vit import HEIGHT, WIDTH
from tests.compiler.test_frontend_branches import SharedExperts

from .conftest import make_models, moesaic

CONFIGS = {
    "dim40_5heads_70tokens_3experts_top1": M3ViTConfig(
        height=48, width=368, patch=16, dim=40, depth=2, heads=5, experts=3, top_k=1,
        expert_hidden=33, mlp_ratio=1.5,
    ),
    "dim72_1head_5tokens_12experts_top4_all_moe": M3ViTConfig(
        height=16, width=32, patch=8, dim=72, depth=2, heads=1, experts=12, top_k=4,
        expert_hidden=20, moe_layers="all", class_token=False, tasks=(("seg", 5),),
    ),
    "dim24_3heads_no_moe": M3ViTConfig(
        height=24, width=40, patch=8, dim=24, depth=3, heads=3, moe_layers="none",
        mlp_ratio=3.0, tasks=(("depth", 1),),
    ),
    "dim64_4heads_renormalised_top3": M3ViTConfig(
        height=32, width=48, patch=8, dim=64, depth=2, heads=4, experts=5, top_k=3,
        expert_hidden=48, gate_mode="softmax_topk_renorm", mlp_ratio=2.0,
    ),
    "dim50_2heads_odd_patches": M3ViTConfig(
        height=33, width=44, patch=11, dim=50, depth=2, heads=2, experts=7, top_k=2,
        expert_hidden=25, moe_layers="all", mlp_ratio=1.0, tasks=(("seg", 2), ("depth", 1)),
    ),
    "dim36_3heads_every_expert": M3ViTConfig(
        height=16, width=64, patch=16, dim=36, depth=2, heads=3, experts=4, top_k=4,
        expert_hidden=40, class_token=False, mlp_ratio=2.5, tasks=(("seg", 4),),
    ),
}  # fmt: skip


def draw_config(seed: int) -> M3ViTConfig:
    """A configuration drawn at random: nothing in it is chosen to suit the array."""
    rng = random.Random(seed)
    heads = rng.randint(1, 5)
    while True:
        rows, columns, class_token = rng.randint(1, 8), rng.randint(1, 14), rng.random() < 0.5
        if 5 <= rows * columns + class_token <= 70:
            break
    patch, experts = rng.randint(4, 9), rng.randint(3, 12)
    return M3ViTConfig(
        height=rows * patch,
        width=columns * patch,
        patch=patch,
        dim=heads * rng.randint(24 // heads + 1, 100 // heads),
        depth=2,
        heads=heads,
        mlp_ratio=rng.choice([1.0, 1.5, 2.0, 3.0]),
        moe_layers=rng.choice(["alternate", "all", "none"]),
        experts=experts,
        expert_hidden=rng.randint(9, 60),
        top_k=rng.randint(1, min(4, experts)),
        gate_mode=rng.choice(["softmax_topk", "softmax_topk_renorm"]),
        class_token=class_token,
        tasks=(("seg", rng.randint(2, 5)),),
        attention=rng.choice(["matmul", "sdpa"]),
    )


@pytest.mark.parametrize("seed", range(6))
def test_drawn_model_is_bit_exact(tmp_path: Path, seed: int) -> None:
    check_model(tmp_path, draw_config(seed), seed)


@pytest.mark.parametrize("name", CONFIGS)
def test_corner_model_is_bit_exact(tmp_path: Path, name: str) -> None:
    check_model(tmp_path, CONFIGS[name], len(name))


def check_model(tmp_path: Path, config: M3ViTConfig, seed: int) -> None:
    """Export, compile, verify; all by the command line."""
    models = make_models(tmp_path, config, seed, samples=3)
    bundle = tmp_path / "bundle"
    calibration = ("--calibrate", tmp_path / "samples.npz")
    done = moesaic("compile", *models, "--target", "nano", *calibration, "-o", bundle)
    assert done.code == 0, f"{config}: {done.err}"
    done = moesaic("verify", bundle, "--json")
    assert done.code == 0, f"{config}: {done.out}{done.err}"
    result = json.loads(done.out)
    assert set(result["tasks"]) == set(config.task_names)
    for task in result["tasks"].values():
        assert task["bit_exact"] and task["frames"] == 3 and task["codes"] > 0


def test_microsoft_moe_is_bit_exact(tmp_path: Path) -> None:
    """The other way to write a mixture: one com.microsoft.MoE node per layer."""
    config = M3ViTConfig(
        height=24, width=40, patch=8, dim=48, depth=2, heads=3, experts=6, top_k=2,
        expert_hidden=30, mlp_ratio=2.0, tasks=(("depth", 1),),
    )  # fmt: skip
    make_models(tmp_path, config, seed=3)
    export_ms_moe(random_model(config, 3), "depth", tmp_path / "depth.onnx")
    bundle = tmp_path / "bundle"
    calibration = ("--calibrate", tmp_path / "samples.npz")
    model = f"depth={tmp_path}/depth.onnx"
    done = moesaic("compile", model, "--target", "nano", *calibration, "-o", bundle)
    assert done.code == 0, done.err
    done = moesaic("verify", bundle, "--json")
    assert done.code == 0, done.out + done.err
    assert json.loads(done.out)["tasks"]["depth"]["sqnr_db"] > 20


def test_three_branches_on_one_norm_are_bit_exact(tmp_path: Path) -> None:
    """Attention beside a mixture and a shared expert."""
    model = SharedExperts(residual="parallel", mlp="renormalised").save(tmp_path)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "samples.npz", x=rng.normal(size=(3, 3, HEIGHT, WIDTH)).astype(np.float32))
    bundle = tmp_path / "bundle"
    calibration = ("--calibrate", tmp_path / "samples.npz")
    done = moesaic("compile", model, "--target", "nano", *calibration, "-o", bundle)
    assert done.code == 0, done.err
    done = moesaic("verify", bundle, "--json")
    assert done.code == 0, done.out + done.err
    task = json.loads(done.out)["tasks"]["default"]
    assert task["bit_exact"] and task["sqnr_db"] > 25
