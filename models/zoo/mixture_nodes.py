"""Mixtures that are one node of ONNX Runtime's, with float weights or with integers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from moesaic.models.zoo.entry import Entry
from moesaic.models.zoo.mixtures import CHANNELS, EXPERTS, HIDDEN, SIDE, TOP_K, MixtureViT

BLOCK = 32
"""Inputs that share a scale."""
SWIGLU: dict[str, str | int | float] = {
    "activation_type": "swiglu",
    "swiglu_fusion": 1,
    "activation_alpha": 1.702,
    "activation_beta": 1.0,
}
"""As GPT-OSS has it, whose limit is left out."""


class Node(nn.Module):
    """``com.microsoft.MoE``; it can be exported, not run."""

    kind = "MoE"
    step = 2
    """Inputs of a layer: weights and biases."""

    def __init__(self, **attributes: str | int | float) -> None:
        super().__init__()
        self.router = nn.Linear(CHANNELS, EXPERTS)
        self.attributes = attributes
        pairs = 2 if attributes["activation_type"] == "swiglu" else 1
        self.shapes = ((pairs * HIDDEN, CHANNELS), (CHANNELS, HIDDEN))
        for number, (outputs, inputs) in enumerate(self.shapes):
            weight = torch.randn(EXPERTS, outputs, inputs) * inputs**-0.5
            parts = (*self.held(weight), 0.1 * torch.randn(EXPERTS, outputs))
            for place, part in enumerate(parts):
                self.register_buffer(f"layer{number}_{place}", part)

    def held(self, weight: Tensor) -> tuple[Tensor, ...]:
        """What a weight [E, outputs, inputs] is in the file."""
        return (weight,)

    def forward(self, x: Tensor) -> Tensor:
        """[1, T, C] to the same."""
        rows = x.flatten(0, 1)
        parts = [getattr(self, f"layer{n}_{place}") for n in (0, 1) for place in range(self.step)]
        mixed = torch.onnx.ops.symbolic(
            f"com.microsoft::{self.kind}",
            (rows, self.router(rows), *parts),
            {"k": TOP_K, "normalize_routing_weights": 1, **self.attributes},
            dtype=rows.dtype,
            shape=rows.shape,
            version=1,
        )
        return mixed.reshape(x.shape)


class Integers(Node):
    """``com.microsoft.QMoE``: bytes of one code or two, scales of rows or of blocks."""

    kind, step = "QMoE", 3

    def held(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Codes around the middle of their range, and scales."""
        bits, block = self.attributes["expert_weight_bits"], self.attributes.get("block_size")
        assert isinstance(bits, int) and (block is None or isinstance(block, int))
        half = 1 << bits - 1
        blocks = weight.unflatten(-1, (-1, block or weight.shape[-1]))
        scale = blocks.abs().amax(-1) / (half - 1)
        codes = ((blocks / scale[..., None]).round() + half).to(torch.uint8).flatten(-2)
        if bits == 4:
            codes = codes[..., 0::2] | codes[..., 1::2] << 4
        return codes, scale if block else scale[..., 0]


NODES: dict[str, Callable[[], nn.Module]] = {
    "float": lambda: Node(activation_type="gelu"),
    "float-swiglu": lambda: Node(**SWIGLU),
    "8-bit": lambda: Integers(activation_type="silu", expert_weight_bits=8),
    "8-bit-swiglu": lambda: Integers(expert_weight_bits=8, **SWIGLU),
    "4-bit": lambda: Integers(activation_type="silu", expert_weight_bits=4),
    "4-bit-blocks": lambda: Integers(expert_weight_bits=4, block_size=BLOCK, **SWIGLU),
}
"""By name."""


def entries() -> Iterator[Entry]:
    """All of them."""
    for name, build in NODES.items():
        module = functools.partial(_vit, build)
        shape = (1, 3, SIDE, SIDE)
        yield Entry(f"moe-node-{name}", "mixtures of experts", "here", module, shape)


def _vit(build: Callable[[], nn.Module]) -> nn.Module:
    return MixtureViT(build())
