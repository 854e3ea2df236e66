"""The same network with each MoE layer as one `com.microsoft.MoE` node.

ONNX Runtime's CPU provider runs that operator. Its `gelu` is the tanh form, so its results
differ slightly from the erf form: by at most 4.8e-4 per activation.
"""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from moesaic.models.layers import MoE
from moesaic.models.m3vit import M3ViT
from moesaic.models.tracing import DEFAULT_OPSET, check_experts, trace


class MsMoE(nn.Module):
    """Stands in for a `MoE` layer during export; it cannot run in torch.

    The experts' matrices are stacked as the operator wants them: fc1 (E, hidden, dim),
    fc2 (E, dim, hidden), biases (E, hidden) and (E, dim).
    """

    def __init__(self, layer: MoE) -> None:
        super().__init__()
        self.top_k = layer.top_k
        self.renormalise = layer.renormalise
        self.gates = layer.gates
        for name in ("fc1", "fc2"):
            linears = [getattr(expert, name) for expert in layer.experts]
            weight = torch.stack([linear.weight.detach() for linear in linears])
            bias = torch.stack([linear.bias.detach() for linear in linears])
            self.register_buffer(f"{name}_weight", weight)
            self.register_buffer(f"{name}_bias", bias)

    def forward(self, x: Tensor, task: str) -> Tensor:
        """Emit the node on (N * T, dim) rows; the router input is logits."""
        rows = x.reshape(-1, x.shape[-1])
        mixed = torch.onnx.ops.symbolic(
            "com.microsoft::MoE",
            (
                rows,
                self.gates[task](rows),
                self.fc1_weight,
                self.fc1_bias,
                self.fc2_weight,
                self.fc2_bias,
            ),
            {
                "k": self.top_k,
                "activation_type": "gelu",
                # 0: softmax over all experts, then top-k, as M3ViT; 1: divided by their sum.
                "normalize_routing_weights": int(self.renormalise),
            },
            dtype=rows.dtype,
            shape=rows.shape,
            version=1,
        )
        return mixed.reshape(x.shape)


def export_ms_moe(
    model: M3ViT, task: str, path: str | Path, opset: int = DEFAULT_OPSET
) -> onnx.ModelProto:
    """Export one task with `com.microsoft.MoE` nodes; names and shapes as in `export_onnx`.

    Raises
    ------
    ValueError
        Unknown task, or an expert is missing in the graph.
    """
    twin = copy.deepcopy(model)
    for block in twin.blocks:
        if isinstance(block.mlp, MoE):
            block.mlp = MsMoE(block.mlp)
    proto = trace(twin, task, opset)
    check_experts(proto.graph, model)
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))
    return proto
