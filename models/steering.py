"""Gates that route as wanted: what a mixture of experts costs depends on it.

Random gates favour some experts; training's balance loss makes them take turns. A bias per expert
does the same to a random model, or sends all tokens to a few.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moesaic.models.layers import MoE
from moesaic.models.m3vit import M3ViT

ROUTINGS = ("balanced", "one", "two")
"""balanced: experts share the tokens; one: the first expert gets all tokens, the others share the
rest; two: the first two experts get all tokens, the others none (with top-2)."""

_SURE = 20.0
"""Logits that nothing else outweighs: e**20 times the others' probability."""
_STEPS = 400


@torch.no_grad()
def steer_routing(model: M3ViT, routing: str, images: Tensor) -> None:
    """Give every gate a bias so that ``images`` are routed as wanted.

    Parameters
    ----------
    model
        Changed in place, layer by layer: what a layer sees depends on those before it.
    routing
        One of :data:`ROUTINGS`.
    images
        (N, 3, H, W) float32, normalised as the model wants them.

    Raises
    ------
    ValueError
        There is no such routing.
    """
    if routing not in ROUTINGS:
        raise ValueError(f"routing must be one of {ROUTINGS}, not {routing!r}")
    favoured = {"balanced": 0, "one": 1, "two": 2}[routing]
    for moe in model.moe_layers():
        for task in model.config.task_names:
            gate = moe.gates[task]
            steered = nn.Linear(gate.in_features, gate.out_features)
            steered.weight.copy_(gate.weight)
            logits = _inputs(model, moe, task, images) @ gate.weight.T
            bias = _balance(logits[..., favoured:], max(1, moe.top_k - favoured))
            steered.bias.copy_(torch.cat([torch.full((favoured,), _SURE), bias]))
            moe.gates[task] = steered


def _inputs(model: M3ViT, moe: MoE, task: str, images: Tensor) -> Tensor:
    """What a layer sees, (N, T, dim)."""
    seen: list[Tensor] = []
    handle = moe.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        model(images, task)
    finally:
        handle.remove()
    return torch.cat(seen)


def _balance(logits: Tensor, top_k: int) -> Tensor:
    """Bias with which the tokens' ``top_k`` highest logits spread equally over the last axis."""
    flat = logits.reshape(-1, logits.shape[-1])
    bias = -flat.mean(0)
    best, least = bias, float("inf")
    for step in range(_STEPS):
        chosen = (flat + bias).topk(top_k, dim=-1).indices
        load = chosen.flatten().bincount(minlength=flat.shape[-1]) / chosen.numel()
        unfair = float((load - load.mean()).abs().max())
        if unfair < least:
            best, least = bias, unfair
        # Ever smaller steps in units of the logits' own spread.
        bias = bias + flat.std() * (load.mean() - load) * 4 / (1 + step / 40)
    return best
