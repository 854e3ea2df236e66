"""A vision transformer whose mixture is one node: com.microsoft.MoE, or QMoE with integers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.compiler import onnx_vit
from tests.compiler.onnx_vit import EXPERTS, TOP_K, Vit


@dataclass
class ExpertVit(Vit):
    """Weights of ``bits`` in blocks of ``block`` inputs, 0 for whole rows; 32 bits are floats."""

    mlp: str = "node"
    bits: int = 8
    block: int = 0
    zeros: bool = False
    """Whether integers have zero points of their own."""
    biased: bool = True
    least: int = 1
    """Smallest integer, above the lowest one."""
    activation: str = "silu"
    attributes: dict[str, Any] = field(default_factory=dict)
    more: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of further inputs, by place."""

    def moe_node(self, x: str, count: int) -> str:
        channels, hidden = onnx_vit.CHANNELS, onnx_vit.HIDDEN
        rows = self.reshape(x, count, channels)
        router = self.const(self.draw(channels, EXPERTS, std=0.7))
        inputs = {0: rows, 1: self.op("MatMul", rows, router)}
        pairs = 2 if self.activation == "swiglu" else 1
        layers = ((pairs * hidden, channels), (channels, hidden))
        step = 2 if self.bits == 32 else 3
        for place, (outputs, depth) in enumerate(layers):
            weight = self.draw(EXPERTS, outputs, depth, std=depth**-0.5)
            at = 2 + step * place
            if self.bits == 32:
                inputs[at] = self.const(weight)
            else:
                codes, scale, zero = self.quantise(weight)
                inputs[at] = self.const(self.pack(codes), np.uint8)
                inputs[at + 1] = self.const(scale)
                if self.zeros:
                    inputs[11 + place] = self.const(self.pack(zero), np.uint8)
            if self.biased:
                inputs[at + step - 1] = self.const(self.draw(EXPERTS, outputs))
        more = {place: self.const(np.ones(shape)) for place, shape in self.more.items()}
        inputs |= more
        own = {"expert_weight_bits": self.bits} if self.bits != 32 else {}
        own |= {"block_size": self.block} if self.block else {}
        own |= {"swiglu_fusion": 1} if self.activation == "swiglu" else {}
        mixed = self.fused(
            "MoE" if self.bits == 32 else "QMoE",
            *(inputs.get(place, "") for place in range(max(inputs) + 1)),
            **{
                "k": TOP_K,
                "activation_type": self.activation,
                "normalize_routing_weights": 1,
                **own,
                **self.attributes,
            },
        )
        return self.reshape(mixed, 1, count, channels)

    def quantise(self, weight: np.ndarray) -> tuple[np.ndarray, ...]:
        """Integers [E, O, K] above 0, scales and zero points [E, O] or [E, O, blocks]."""
        experts, outputs, depth = weight.shape
        blocks = weight.reshape(experts, outputs, -1, self.block or depth)
        most, half = (1 << self.bits) - 1, 1 << self.bits - 1
        if self.zeros:
            low, high = blocks.min(-1, keepdims=True), blocks.max(-1, keepdims=True)
            scale = (high - low) / most
            zero = np.rint(-low / scale).clip(0, most)
        else:
            scale = np.abs(blocks).max(-1, keepdims=True) / max(half - 1, 1)
            zero = np.full_like(scale, half)
        codes = (np.rint(blocks / scale) + zero).clip(0 if self.zeros else self.least, most)
        kept = (experts, outputs, -1) if self.block else (experts, outputs)
        return codes.reshape(weight.shape), scale.reshape(kept), zero.reshape(kept)

    def pack(self, codes: np.ndarray) -> np.ndarray:
        """Several codes to a byte, the first in the lowest bits."""
        share = 8 // self.bits
        spare = [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % share)]
        parts = np.pad(codes.astype(np.uint8), spare).reshape(*codes.shape[:-1], -1, share)
        return np.bitwise_or.reduce(parts << np.arange(0, 8, self.bits, dtype=np.uint8), -1)
