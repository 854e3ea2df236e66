"""Weights of experts as integers of 2, 4 or 8 bits, with scales of rows or of blocks of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.frontend.choices import ExpertLinear
from moesaic.compiler.frontend.operators.call import Call
from moesaic.compiler.frontend.views import NotRecognised
from moesaic.compiler.ir import FloatArray

WIDTHS = (2, 4, 8)
MOST_CODE = 127
"""Largest magnitude of a code that a layer keeps."""


@dataclass(frozen=True)
class Packing:
    """How a com.microsoft.QMoE node holds its weights.

    Attributes
    ----------
    bits
        Of a code; several share a byte, the first one in its lowest bits.
    block
        Inputs that share a scale and a zero point; 0: all of a row.
    """

    bits: int
    block: int

    @classmethod
    def of(cls, call: Call) -> Packing:
        """Read a node's attributes, and refuse what ONNX Runtime computes with fewer bits."""
        attributes = call.attributes
        bits, block = attributes.get("expert_weight_bits", 4), attributes.get("block_size", 0)
        if bits not in WIDTHS:
            known = ", ".join(map(str, WIDTHS))
            raise NotRecognised(f"expert_weight_bits must be one of {known}, not {bits}")
        if block > 0 and (bits == 8 or attributes.get("accuracy_level", 0) == 4):
            raise NotRecognised(
                "ONNX Runtime rounds the activations in front of its experts to 8 bits, so that "
                "nothing can be compared with it: quantise the experts without block_size, or in "
                "4 bits with accuracy_level 0"
            )
        return cls(bits, max(block, 0))

    def read(self, call: Call, index: int, zeros: int, inputs: int) -> list[ExpertLinear]:
        """Return the layer of each expert, from weights, scales and biases at ``index`` and behind,
        and zero points at ``zeros``, if any."""
        packed = call.constant(index, "expert weights")
        if inputs * self.bits % 8 or (self.block and inputs % self.block):
            raise NotRecognised(
                f"its {inputs} columns of {self.bits} bits do not fill bytes and blocks"
            )
        if packed.dtype != np.uint8 or packed.ndim != 3:
            raise NotRecognised("its expert weights must be uint8 of three dimensions")
        experts, outputs = packed.shape[:2]
        blocks = inputs // self.block if self.block else 1
        each = (experts, outputs, blocks)
        codes = self._unpack(packed, (experts, outputs, inputs), "expert weights")
        scale = np.asarray(call.constant(index + 1, "scales"), np.float32)
        if scale.shape != (each if self.block else each[:2]):
            expected = list(each if self.block else each[:2])
            raise NotRecognised(f"its scales must be {expected}, not {list(scale.shape)}")
        if call.optional(zeros) is None:
            zero: NDArray[np.int16] = np.full(each, 1 << self.bits - 1, np.int16)
        else:
            held = call.constant(zeros, "zero points")
            shape = each if self.block else (experts, outputs)
            zero = self._unpack(held, shape, "zero points").reshape(each)
        whole = codes.reshape(*each, -1) - zero[..., None]
        weight = (whole.astype(np.float32) * scale.reshape(each)[..., None]).reshape(codes.shape)
        bias = read_bias(call, index + 2, (experts, outputs))
        kept = blocks == 1 and int(np.abs(whole).max(initial=0)) <= MOST_CODE
        integers = whole.reshape(codes.shape).astype(np.int8) if kept else [None] * experts
        return [ExpertLinear(*parts) for parts in zip(weight, bias, integers, strict=True)]

    def _unpack(
        self, packed: NDArray[np.generic], shape: tuple[int, ...], what: str
    ) -> NDArray[np.int16]:
        """Return codes of a shape, whose last axis is packed."""
        expected = *shape[:-1], -(-shape[-1] * self.bits // 8)
        if packed.shape != expected or packed.dtype != np.uint8:
            raise NotRecognised(
                f"its {what} must be uint8 {list(expected)}, not {packed.dtype} "
                f"{list(packed.shape)}"
            )
        shifts = np.arange(0, 8, self.bits, dtype=np.int16)
        parts = packed.astype(np.int16)[..., None] >> shifts & (1 << self.bits) - 1
        return parts.reshape(*shape[:-1], -1)[..., : shape[-1]]


def read_bias(call: Call, index: int, shape: tuple[int, ...]) -> FloatArray:
    """Return the biases [experts, outputs] of a node, zeros where it has none."""
    if call.optional(index) is None:
        return np.zeros(shape, np.float32)
    bias = np.asarray(call.constant(index, "expert biases"), np.float32)
    if bias.shape != shape:
        raise NotRecognised(f"its expert biases must be {list(shape)}, not {list(bias.shape)}")
    return bias
