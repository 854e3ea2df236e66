"""Codes of hidden rows, from the lowest value of their function to where they saturate."""

from __future__ import annotations

import math

from moesaic.compiler import ir
from moesaic.spec.activations import ACTIVATIONS

INT8_MAX, UINT8_MAX = 127, 255


def is_paired(mlp: ir.Mlp) -> bool:
    """Whether activations are multiplied by another linear layer: then they have any sign."""
    return mlp.factor is not None


def hidden_codes(mlp: ir.Mlp, clip: float, finest: float = 0.0) -> tuple[float, int]:
    """Step, at least ``finest``, and code of zero of the uint8 codes up to ``clip``."""
    if is_paired(mlp):
        return max(clip / INT8_MAX, finest), UINT8_MAX - INT8_MAX
    lowest = min(-ACTIVATIONS[mlp.activation].lowest, clip)
    step = max((clip + lowest) / UINT8_MAX, finest)
    return step, min(math.ceil(lowest / step), UINT8_MAX)


def clip_of_step(mlp: ir.Mlp, step: float) -> float:
    """The least clip for which :func:`hidden_codes` gives at least ``step``."""
    if is_paired(mlp):
        return step * INT8_MAX
    codes = step * UINT8_MAX
    return max(codes / 2, codes + ACTIVATIONS[mlp.activation].lowest)
