"""Shapes of an M3ViT model and the presets that have names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

MOE_LAYERS = ("alternate", "all", "none")
GATE_MODES = ("softmax_topk", "softmax_topk_renorm")
ATTENTIONS = ("matmul", "sdpa")
HEADS = ("patch", "upsample")


@dataclass(frozen=True, kw_only=True)
class M3ViTConfig:
    """Everything that determines the shapes and the arithmetic of an `M3ViT`.

    Attributes
    ----------
    height, width
        Input image in pixels, multiples of `patch`.
    patch
        Side of a square patch in pixels.
    dim
        Width of the residual stream, a multiple of `heads`.
    depth
        Number of transformer blocks.
    heads
        Attention heads, each dim / heads wide.
    mlp_ratio
        Hidden width of a dense MLP in units of `dim` (rounded down).
    moe_layers
        'alternate': odd blocks (1, 3, ...) are MoE as in M3ViT; 'all'; 'none'.
    experts, expert_hidden, top_k
        Experts of one MoE layer, the hidden width of each, and how many of them a token takes.
    gate_mode
        'softmax_topk': softmax over all experts, then top-k, not renormalised (M3ViT).
        'softmax_topk_renorm': the k kept weights are divided by their sum.
    class_token
        Prepend a learned token. The heads drop it.
    tasks
        (name, output channels) of each task.
    attention
        How attention is written, which decides the exported graph: 'matmul' spells it out,
        'sdpa' calls scaled_dot_product_attention. The function is the same.
    head
        'patch': LayerNorm and one linear layer per patch; 'upsample': M3ViT's own decoder of
        convolutions at growing resolution, for which `patch` is a power of two.
    head_width
        Channels of an up-sampling head's convolutions; M3ViT has 256.
    """

    height: int = 64
    width: int = 128
    patch: int = 16
    dim: int = 96
    depth: int = 6
    heads: int = 3
    mlp_ratio: float = 4.0
    moe_layers: str = "alternate"
    experts: int = 8
    expert_hidden: int = 192
    top_k: int = 2
    gate_mode: str = "softmax_topk"
    class_token: bool = True
    tasks: tuple[tuple[str, int], ...] = (("seg", 7), ("depth", 1))
    attention: str = "matmul"
    head: str = "patch"
    head_width: int = 256

    def __post_init__(self) -> None:
        counts = ("height", "width", "patch", "dim", "depth", "heads", "experts", "top_k")
        for name in (*counts, "head_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        for name in ("height", "width"):
            if getattr(self, name) % self.patch:
                raise ValueError(
                    f"{name} must be a multiple of the patch size {self.patch}, "
                    f"not {getattr(self, name)!r}"
                )
        if self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads ({self.heads}), not {self.dim!r}")
        if self.mlp_hidden < 1 or self.expert_hidden < 1:
            raise ValueError(
                "hidden widths must be at least 1, not "
                f"{self.mlp_hidden!r} (dense) and {self.expert_hidden!r} (expert)"
            )
        if self.top_k > self.experts:
            raise ValueError(
                f"top_k must be at most the number of experts ({self.experts}), not {self.top_k!r}"
            )
        for name, known in (
            ("moe_layers", MOE_LAYERS),
            ("gate_mode", GATE_MODES),
            ("attention", ATTENTIONS),
            ("head", HEADS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, not {getattr(self, name)!r}")
        if self.head == "upsample" and self.patch & (self.patch - 1):
            raise ValueError(
                "patch must be a power of two for up-sampling heads, which double the resolution "
                f"in every stage, not {self.patch!r}"
            )
        if not self.tasks:
            raise ValueError("tasks must name at least one task, not ()")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per column and per row of the image."""
        return self.height // self.patch, self.width // self.patch

    @property
    def patches(self) -> int:
        """Patches of one image."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Length of the token sequence: patches, and the class token if there is one."""
        return self.patches + int(self.class_token)

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of a dense MLP."""
        return int(self.dim * self.mlp_ratio)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks in order."""
        return tuple(name for name, _ in self.tasks)

    def channels(self, task: str) -> int:
        """Return the output channels of a task; ValueError if there is no such task."""
        for name, channels in self.tasks:
            if name == task:
                return channels
        raise ValueError(f"task must be one of {self.task_names}, not {task!r}")

    def is_moe(self, layer: int) -> bool:
        """Say whether block `layer` (from 0) is a mixture of experts."""
        return self.moe_layers == "all" or (self.moe_layers == "alternate" and layer % 2 == 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> M3ViTConfig:
        """Inverse of `to_dict`; accepts what JSON makes of its result."""
        tasks = tuple((str(name), int(channels)) for name, channels in fields["tasks"])
        return cls(**{**fields, "tasks": tasks})


PRESETS: dict[str, M3ViTConfig] = {
    "nano": M3ViTConfig(),
    # M3ViT-T as Edge-MoE accelerates it: 129 tokens, 782.7 M MAC per frame.
    "tiny": M3ViTConfig(
        height=128, width=256, dim=192, depth=12, heads=3, experts=16, expert_hidden=384
    ),
}
"""Named configurations."""


def preset(name: str) -> M3ViTConfig:
    """Return a named configuration; ValueError lists the names if there is no such preset."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {tuple(PRESETS)}, not {name!r}")
    return PRESETS[name]
