"""Steered gates: experts in turn, all tokens to one, only two hit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moesaic.models.config import M3ViTConfig
from moesaic.models.m3vit import M3ViT, random_model
from moesaic.models.steering import ROUTINGS, steer_routing

CONFIG = M3ViTConfig(
    height=64, width=64, patch=16, dim=48, depth=4, heads=2, experts=8, expert_hidden=24
)


def loads(model: M3ViT, images: Tensor, task: str) -> list[Tensor]:
    """Share of the choices that every expert gets, by MoE layer."""
    found: list[Tensor] = []
    handles = [
        moe.register_forward_pre_hook(
            lambda moe, arguments: found.append(moe.route(arguments[0], arguments[1])[1])
        )
        for moe in model.moe_layers()
    ]
    with torch.no_grad():
        model(images, task)
    for handle in handles:
        handle.remove()
    return [chosen.flatten().bincount(minlength=8) / chosen.numel() for chosen in found]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("task", CONFIG.task_names)
def test_gates_route_as_wanted(images: Tensor, task: str) -> None:
    plain = random_model(CONFIG, 1)
    steered = {}
    for routing in ROUTINGS:
        steered[routing] = random_model(CONFIG, 1)
        steer_routing(steered[routing], routing, images)
    for before, after in zip(
        loads(plain, images, task), loads(steered["balanced"], images, task), strict=True
    ):
        assert after.max() < 0.16 and after.min() > 0.09  # an eighth each
        assert before.max() > after.max()
    for load in loads(steered["one"], images, task):
        assert load[0] == 0.5 and (load[1:] > 0.04).all()
    for load in loads(steered["two"], images, task):
        assert load[:2].tolist() == [0.5, 0.5] and load[2:].sum() == 0


def test_unknown_routing_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="balanced"):
        steer_routing(random_model(CONFIG, 1), "chaos", images)
