"""The constants of an integer graph as the C library reads them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moesaic.host.cpu.library import CAttention, CLinear, CMlp, CMoe, CNorm
from moesaic.spec import prepared, semantics, tables
from moesaic.spec.formats import (
    ADDEND_BITS,
    CORRECTION_BITS,
    INT8_LARGEST,
    INT16_LARGEST,
    LOGIT_BITS,
    ROTARY_BITS,
    UINT8_LARGEST,
)
from moesaic.spec.intgraph import (
    IntActivation,
    IntAttention,
    IntLinear,
    IntMlp,
    IntMoe,
    IntNorm,
)

TILE = 64
"""``TILE`` of ``exact.h``."""
LARGEST_SUM = (1 << 31) - 1
Limits = int | NDArray[Any]


class OutOfRange(Exception):
    """Sums of products may leave 32 bits: the C library does not compute this graph."""


def _check(largest: int) -> None:
    if largest > LARGEST_SUM:
        raise OutOfRange(f"sums of products may reach {largest}")


def _padded(values: Limits, outputs: int) -> NDArray[np.float64]:
    full = np.zeros(-(-outputs // TILE) * TILE)
    full[:outputs] = values
    return full


class Constants:
    """Structures of one graph, and the arrays that they point into.

    Raises
    ------
    OutOfRange
        By any of its methods.
    """

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._fine: dict[int, NDArray[np.int32]] = {}
        self._exp2 = self._array(tables.EXP2_TABLE, np.int32)
        self._reciprocal = self._array(tables.RECIPROCAL_TABLE, np.int32)
        self._rsqrt = self._array(tables.RSQRT_TABLE, np.int32)
        self._exponents = self._array(prepared.exponent_table().numpy(), np.int32)

    def _array(self, values: Any, dtype: type) -> int:
        """Address of a copy that lives as long as this."""
        made: NDArray[Any] = np.array(values, dtype, order="C")
        self._kept.append(made)
        return made.ctypes.data

    def linear(
        self,
        parts: Sequence[IntLinear],
        low: Limits,
        high: Limits,
        largest: Limits = INT8_LARGEST,
    ) -> CLinear:
        """Layers of the same input, one behind the other.

        ``low`` and ``high`` are what results saturate to, all or [outputs]; ``largest`` the largest
        magnitude of an input, of all or [inputs].
        """
        weight = np.concatenate([part.weight for part in parts])
        outputs, inputs = weight.shape
        reach = np.abs(weight.astype(np.int64)) @ np.broadcast_to(np.int64(largest), inputs)
        _check(int(reach.max(initial=0)))
        tiles, pairs = -(-outputs // TILE), -(-inputs // 2)
        packed = np.zeros((tiles * TILE, pairs * 2), np.int16)
        packed[:outputs, :inputs] = weight
        packed = packed.reshape(tiles, TILE, pairs, 2).transpose(0, 2, 1, 3)

        def join(name: str) -> NDArray[np.float64]:
            return np.concatenate([getattr(part, name) for part in parts]).astype(np.float64)

        factor = np.ldexp(join("multiplier"), -join("shift").astype(np.int32))
        offset = join("bias") * factor + 0.5
        rows = (_padded(values, outputs) for values in (factor, offset, low, high))
        addresses = [self._array(values, np.float64) for values in rows]
        return CLinear(inputs, outputs, self._array(packed, np.int16), *addresses)

    def bits(self, linear: IntLinear, bits: int, largest: Limits = INT8_LARGEST) -> CLinear:
        """One layer that saturates to a signed number of ``bits``."""
        return self.linear([linear], -(1 << bits - 1), (1 << bits - 1) - 1, largest)

    def norm(self, norm: IntNorm) -> CNorm:
        """LayerNorm, or rows as they are."""
        scale = norm.scale
        return CNorm(
            norm.channels, norm.plain, norm.epsilon, scale.multiplier, scale.shift, self._rsqrt
        )

    def _fine_table(self, activation: IntActivation) -> int:
        # prepared.fine_table has one for equal functions
        table = prepared.fine_table(activation, torch.device("cpu"))
        if id(table) not in self._fine:
            self._kept.append(table)
            self._fine[id(table)] = table.to(torch.int32).numpy()
        return self._fine[id(table)].ctypes.data

    def mlp(self, mlp: IntMlp, largest: int) -> CMlp:
        """Up, activation and down; ``largest`` is the largest magnitude of an input."""
        z_bits = np.full(mlp.up.outputs, tables.ACTIVATION_INPUT_BITS)
        if mlp.paired:
            z_bits[mlp.hidden :] = 16
        low, high = -(2.0 ** (z_bits - 1)), 2.0 ** (z_bits - 1) - 1
        first, last, codes, fine = 0, 0, 0, 0
        if not mlp.paired:
            first, table = prepared.code_table(mlp.activation, mlp.scale, mlp.offset)
            last, codes = first + len(table) - 1, self._array(table.numpy(), np.uint8)
            if not mlp.wide:
                low[:], high[:] = first, last
        if mlp.paired or mlp.wide:
            fine = self._fine_table(mlp.activation)
        up = self.linear([mlp.up], low, high, largest)
        down = self.linear(
            [mlp.down], -(1 << ADDEND_BITS - 1), (1 << ADDEND_BITS - 1) - 1, mlp.hidden_limits()
        )
        factor = mlp.scale.multiplier * 2.0**-mlp.scale.shift
        return CMlp(up, down, mlp.wide, mlp.paired, first, last, codes, fine, factor, mlp.offset)

    def attention(self, layer: IntAttention, tokens: int) -> CAttention:
        """All heads."""
        parts = (layer.query, layer.key, layer.value)
        widths = [part.outputs for part in parts]
        query = INT16_LARGEST if layer.wide_query else INT8_LARGEST
        attended = INT16_LARGEST if layer.wide_attended else INT8_LARGEST
        _check(layer.head_dim * query * INT8_LARGEST)
        _check(tokens * UINT8_LARGEST * INT8_LARGEST)
        turned = 1 << ROTARY_BITS - 1
        limits = (query, INT8_LARGEST) if layer.rotary is None else (turned, turned)
        most = np.repeat([*limits, INT8_LARGEST], widths)
        largest = INT16_LARGEST if layer.wide else INT8_LARGEST
        cosine = sine = None
        if layer.rotary is not None:
            cosine = self._array(layer.rotary.cosine, np.int16)
            sine = self._array(layer.rotary.sine, np.int16)
        return CAttention(
            self.linear(parts, -most, most - 1, largest),
            self.bits(layer.output, ADDEND_BITS, attended),
            layer.heads,
            layer.head_dim,
            layer.value_dim,
            tokens,
            layer.softmax.multiplier * 2.0**-layer.softmax.shift,
            self._exponents,
            self._array(semantics.dither(tokens).numpy(), np.int32),
            layer.scale.multiplier,
            layer.scale.shift,
            self._reciprocal,
            attended,
            layer.wide_query,
            cosine,
            sine,
        )

    def moe(self, layer: IntMoe) -> CMoe:
        """Gate and experts."""
        largest = INT16_LARGEST if layer.wide else INT8_LARGEST
        mlps = (CMlp * len(layer.experts))(*(self.mlp(e, largest) for e in layer.experts))
        self._kept.append(mlps)
        corrections = None
        if layer.corrections is not None:
            most = 1 << CORRECTION_BITS - 1
            corrections = self._array(layer.corrections.clip(-most, most - 1), np.int32)
        return CMoe(
            self.bits(layer.gate, LOGIT_BITS, INT16_LARGEST),
            len(layer.experts),
            layer.top_k,
            layer.renormalise,
            layer.sigmoid,
            layer.softmax.multiplier,
            layer.softmax.shift,
            corrections,
            self._exp2,
            self._reciprocal,
            ctypes.addressof(mlps),
        )
