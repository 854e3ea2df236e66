"""Checkpoint weights in fewer bits: 8-bit codes and a scale per output channel, or float16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

BITS = (8, 16, 32)
CODE_MAX = 127
SMALL = 4096
"""Tensors with fewer elements stay float32: little to save, and gates decide the routing."""

Packed: TypeAlias = Tensor | dict[str, Tensor]


def pack(weights: Mapping[str, Tensor], bits: int) -> dict[str, Packed]:
    """Return the weights with every large matrix and kernel in `bits` bits.

    Parameters
    ----------
    weights
        A state dict. A tensor is large if it has at least `SMALL` elements and more than one
        output channel (its first axis); all others are kept as they are.
    bits
        32: nothing is changed. 16: large tensors become float16. 8: they become
        {'codes': int8 of the same shape, 'scale': float32, one per output channel}, rounded to
        nearest, with the channel's largest magnitude at code 127.

    Raises
    ------
    ValueError
        `bits` is none of these.
    """
    if bits not in BITS:
        raise ValueError(f"bits must be one of {BITS}, not {bits!r}")
    return {name: _pack_tensor(tensor, bits) for name, tensor in weights.items()}


def _pack_tensor(tensor: Tensor, bits: int) -> Packed:
    if bits == 32 or tensor.ndim < 2 or tensor.shape[0] == 1 or tensor.numel() < SMALL:
        return tensor
    if bits == 16:
        return tensor.half()
    largest = tensor.flatten(1).abs().amax(dim=1)
    # A channel of zeros has codes of zeros: any scale does.
    scale = torch.where(largest > 0, largest / CODE_MAX, torch.ones_like(largest))
    scale = scale.reshape(-1, *[1] * (tensor.ndim - 1))
    codes = (tensor / scale).round().clamp(-CODE_MAX, CODE_MAX).to(torch.int8)
    return {"codes": codes, "scale": scale}


def unpack(packed: Mapping[str, Packed]) -> dict[str, Tensor]:
    """Return the float32 weights that `pack` stored: codes times scale, exactly one product.

    Raises
    ------
    KeyError, TypeError
        An entry is nothing that `pack` writes.
    """
    weights = {}
    for name, entry in packed.items():
        if isinstance(entry, Tensor):
            weights[name] = entry.float() if entry.dtype == torch.float16 else entry
        else:
            weights[name] = entry["codes"].float() * entry["scale"]
    return weights
