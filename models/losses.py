"""What training minimises: the losses of the tasks, and of uneven use of the experts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moesaic.models.m3vit import M3ViT

DEPTH_WEIGHT = 4.0
BALANCE_WEIGHT = 0.02


def balance_loss(model: M3ViT) -> Tensor:
    """Return the mean over MoE layers of E * sum_e (share of e) * (mean gate of e); 1 is even."""
    terms = []
    for layer in model.moe_layers():
        assert layer.statistics is not None, "balance_loss needs a forward pass in training mode"
        share, gate = layer.statistics
        terms.append(len(layer.experts) * (share * gate).sum())
    return torch.stack(terms).mean() if terms else torch.zeros(())


def task_loss(output: Tensor, seg: Tensor, depth: Tensor, task: str) -> Tensor:
    """Return cross-entropy for 'seg' and smooth L1 (quadratic below 0.1) for 'depth'."""
    if task == "seg":
        return F.cross_entropy(output, seg)
    return DEPTH_WEIGHT * F.smooth_l1_loss(output, depth, beta=0.1)
