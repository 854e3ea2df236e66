"""What a model is worth on scenes: its outputs, their figures of merit, the use of its experts."""

from __future__ import annotations

import numpy as np
import torch

from moesaic.models.m3vit import M3ViT
from moesaic.models.metrics import class_iou, depth_rmse
from moesaic.models.scenes import CLASS_NAMES, SceneBatch, normalise


@torch.no_grad()
def predict(model: M3ViT, scenes: SceneBatch, task: str, batch: int = 16) -> np.ndarray:
    """Return the network's output for a task on all scenes: (N, channels, H, W) float32."""
    model.eval()
    parts = [
        model(torch.from_numpy(normalise(scenes.rgb[start : start + batch])), task).numpy()
        for start in range(0, len(scenes.rgb), batch)
    ]
    return np.concatenate(parts)


@torch.no_grad()
def expert_shares(model: M3ViT, scenes: SceneBatch, task: str) -> list[list[float]]:
    """Return, for each MoE layer, the share of (token, slot) choices that each expert got."""
    shares: list[list[float]] = []
    model.train()  # the statistics are kept in training mode only; nothing else differs
    model(torch.from_numpy(normalise(scenes.rgb)), task)
    for layer in model.moe_layers():
        assert layer.statistics is not None
        shares.append([round(float(value), 4) for value in layer.statistics[0]])
    model.eval()
    return shares


def evaluate(model: M3ViT, scenes: SceneBatch) -> dict[str, object]:
    """Return mIoU, IoU per class, depth RMSE (encoded units) and expert shares on `scenes`."""
    iou = class_iou(predict(model, scenes, "seg").argmax(1), scenes.seg, len(CLASS_NAMES))
    return {
        "miou": round(float(np.nanmean(iou)), 4),
        "iou": {name: round(float(value), 4) for name, value in zip(CLASS_NAMES, iou, strict=True)},
        "depth_rmse": round(depth_rmse(predict(model, scenes, "depth"), scenes.depth), 5),
        "heldout_scenes": len(scenes.rgb),
        "expert_shares": {
            task: expert_shares(model, scenes, task) for task in model.config.task_names
        },
    }
