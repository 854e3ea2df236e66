"""Attention, dense MLP, mixture of experts and the block that holds them.

Token tensors are (N, T, dim) float32: N images of T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesaic.models.config import M3ViTConfig

LAYER_NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention with biases on Q, K, V and the output projection."""

    def __init__(self, config: M3ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_dim = config.dim // config.heads
        self.fused = config.attention == "sdpa"
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, dim) to (N, T, dim)."""
        n, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            mixed = scores.softmax(dim=-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(n, tokens, dim))


class Mlp(nn.Module):
    """Linear, erf GELU, linear: a dense block's MLP and every expert."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        return self.fc2(F.gelu(self.fc1(x)))


class MoE(nn.Module):
    """Experts shared by all tasks, with one gate per task (no bias).

    y = sum over the top-k experts e of g_e * expert_e(x), where g is the softmax over *all*
    experts (see `M3ViTConfig.gate_mode`). Among equal gates ONNX's TopK takes the lower index;
    torch leaves the order open, which matters only for exactly equal logits.

    In training, `statistics` holds, after each call, what the balance loss needs.
    """

    def __init__(self, config: M3ViTConfig) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.renormalise = config.gate_mode == "softmax_topk_renorm"
        self.gates = nn.ModuleDict(
            {task: nn.Linear(config.dim, config.experts, bias=False) for task in config.task_names}
        )
        self.experts = nn.ModuleList(
            Mlp(config.dim, config.expert_hidden) for _ in range(config.experts)
        )
        self.statistics: tuple[Tensor, Tensor] | None = None

    def route(self, x: Tensor, task: str) -> tuple[Tensor, Tensor]:
        """Return gate weights and expert indices, both (N, T, top_k), largest first."""
        probabilities = self.gates[task](x).softmax(dim=-1)
        weights, indices = probabilities.topk(self.top_k, dim=-1)
        if self.training:
            chosen = F.one_hot(indices, len(self.experts)).sum(-2).to(x.dtype)
            self.statistics = chosen.mean((0, 1)) / self.top_k, probabilities.mean((0, 1))
        if self.renormalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights, indices

    def forward(self, x: Tensor, task: str) -> Tensor:
        """Map (N, T, dim) to (N, T, dim) with the gate of `task`."""
        weights, indices = self.route(x, task)
        if self.training:
            return self._grouped(x, weights, indices)
        # Every expert runs on every token and is weighted by 0 where it was not chosen:
        # wasteful, but tracing this form can drop no expert.
        table = torch.zeros(*x.shape[:-1], len(self.experts), dtype=x.dtype, device=x.device)
        table = table.scatter(-1, indices, weights)
        total = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            total = total + table[..., e : e + 1] * expert(x)
        return total

    def _grouped(self, x: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
        """Run each expert on its own tokens only: the same sum, experts / top_k times faster."""
        flat = x.reshape(-1, x.shape[-1])
        chosen = indices.reshape(-1)
        # Choices in the order of their experts: one gather and one scatter serve all experts.
        order = chosen.argsort(stable=True)
        token = order // self.top_k
        counts = torch.bincount(chosen, minlength=len(self.experts)).tolist()
        parts = flat.index_select(0, token).split(counts)
        mixed = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        mixed = weights.reshape(-1).index_select(0, order)[:, None] * mixed
        return torch.zeros_like(flat).index_add(0, token, mixed).reshape(x.shape)


class Block(nn.Module):
    """Pre-LayerNorm transformer block; its second half is dense or a mixture of experts."""

    def __init__(self, config: M3ViTConfig, layer: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.mlp: nn.Module = (
            MoE(config) if config.is_moe(layer) else Mlp(config.dim, config.mlp_hidden)
        )

    def forward(self, x: Tensor, task: str) -> Tensor:
        """Map (N, T, dim) to (N, T, dim)."""
        return self.transform(self.attend(x), task)

    def attend(self, x: Tensor) -> Tensor:
        """Run the first half, which is the same for all tasks."""
        return x + self.attention(self.norm1(x))

    def transform(self, x: Tensor, task: str) -> Tensor:
        """Run the second half on what `attend` returned."""
        hidden = self.norm2(x)
        # A dense MLP is the only one that does not depend on the task.
        return x + (self.mlp(hidden) if isinstance(self.mlp, Mlp) else self.mlp(hidden, task))
