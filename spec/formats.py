"""Widths of the numbers that gateware, reference and instruction set share.

``docs/numerics.md`` says what each of them is and why it suffices.
"""

from __future__ import annotations

WEIGHT_BITS = 8
"""Weights of a linear layer, signed, as the array takes them."""
FEW_WEIGHT_BITS = 4
"""And what those of a layer may be stored with: codes of equal magnitude on both sides of zero."""
FEW_WEIGHT_LARGEST = (1 << FEW_WEIGHT_BITS - 1) - 1
"""Largest magnitude of such a code."""
ACCUMULATOR_BITS = 32
"""Accumulators and biases, signed."""
RESIDUAL_BITS = 16
"""The residual stream, the wide result of a LayerNorm, and the outputs, signed."""
RESIDUAL_GUARD_BITS = 8
"""Fraction bits below the residual step that an addend carries."""
ADDEND_BITS = RESIDUAL_BITS + RESIDUAL_GUARD_BITS
"""What is added to the residual stream before its weight, signed."""
LOGIT_BITS = 24
"""Logits of a gate, signed."""
MULTIPLIER_BITS = 16
"""Mantissa of a requantisation, unsigned."""
SHIFT_BITS = 6
"""Right shift of a requantisation: from 63 on nothing is left of any product."""
GATE_FRACTION_BITS = 15
ONE_Q15 = 1 << GATE_FRACTION_BITS
"""Gate weight 1.0."""
GATE_BITS = ONE_Q15.bit_length()
"""A gate weight, unsigned: 0.0 to 1.0."""
SIGMOID_FRACTION_BITS = 16
"""A sigmoid on its way to a gate weight: 0 to 1 without both ends."""
CORRECTION_BITS = 20
"""What is added to a sigmoid for the choice of experts, in its steps, signed: -8 to 8."""
UINT8_BITS = 8
"""Hidden rows behind the activation, unsigned, and the code of zero in them."""
HIDDEN_BITS = 16
"""Hidden rows in two planes, signed."""
ROTARY_BITS = 18
"""A value on its way into a rotation, signed: steps of a 16-bit result, or 256ths of those of an
8-bit one, and two bits more than both have."""
PRODUCT_BITS = 24
"""A value times its cosine or sine, signed."""
ANGLE_FRACTION_BITS = 14
"""Of a rotation's cosine and sine: 1.0 has a code of its own."""
ANGLE_BITS = 16
"""A cosine or a sine: magnitude, and the sign above it."""
PROBABILITY_BITS = 8
"""Un-normalised softmax probabilities, unsigned."""

PARAMETER: dict[str, int] = {
    "bias": ACCUMULATOR_BITS,
    "multiplier": MULTIPLIER_BITS,
    "shift": 8,
    "reserved": 8,
}
"""Bits of a column's entry in a parameter block, the first field lowest."""
PARAMETER_BYTES = sum(PARAMETER.values()) // 8

INT8_LARGEST, UINT8_LARGEST, INT16_LARGEST = 128, 255, 32768
"""Largest magnitudes of codes, for proofs that sums of their products fit."""
MAX_FRAMES = 64
"""Frames of a program that computes several together."""
