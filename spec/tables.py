"""Constant tables of the integer formats: the only numerics that gateware and reference share.

Each table is a formula rounded to integers; ``docs/numerics.md`` says where it is used and the
tests measure the error bound it leads to.
"""

from __future__ import annotations

import math

# 2**-x for softmax and router.
EXP2_FRACTION_BITS = 7
EXP2_TABLE: tuple[int, ...] = tuple(
    round(255 * 256 * 2.0 ** (-i / (1 << EXP2_FRACTION_BITS)))
    for i in range(1 << EXP2_FRACTION_BITS)
)
"""255 * 2**(-i / 128) in Q8.8, 128 entries of 16 bits."""
DITHER_BITS = 8
DITHER_TABLE: tuple[int, ...] = tuple(
    int(f"{i:0{DITHER_BITS}b}"[::-1], 2) for i in range(1 << DITHER_BITS)
)
"""Rounding thresholds of softmax numerators by column modulo 256, in 1/256: 0 .. 255, each once.
The bits of the column in reverse order (van der Corput's sequence), so that neighbours differ most:
together they round a row without bias, where a half would drop a tail of small numerators."""
EXPONENT_BITS = 12
"""Exponents are clamped to ``2**EXPONENT_BITS - 1`` steps of 2**-7 octave (below 2**-31)."""

# GELU = ReLU(z) - delta(|z|).
GELU_INPUT_FRACTION_BITS = 12
"""z is a signed 18-bit number with 12 fraction bits: +-32 in steps of 2**-12."""
GELU_INPUT_BITS = 18
GELU_STEP_LOG2 = 5
"""The table has one entry per 1/32."""
GELU_OUTPUT_FRACTION_BITS = 14
GELU_ENTRIES = 177
"""Entries 0 .. 176: |z| from 0 to 5.5. Beyond, delta is below 1.1e-7 and taken as 0."""
GELU_TABLE: tuple[int, ...] = tuple(
    round((1 << GELU_OUTPUT_FRACTION_BITS) * (i / 32) * 0.5 * math.erfc(i / 32 / math.sqrt(2)))
    for i in range(GELU_ENTRIES)
)
"""delta(x) = x * (1 - Phi(x)) in Q0.14, 12 bits; linear interpolation between entries."""

# 1/s for softmax and router sums.
RECIPROCAL_INDEX_BITS = 8
RECIPROCAL_TABLE: tuple[int, ...] = tuple(
    round(65536 / (1 + (i + 0.5) / (1 << RECIPROCAL_INDEX_BITS)))
    for i in range(1 << RECIPROCAL_INDEX_BITS)
)
"""1 / f in Q0.16 at the middle of each of 256 segments of [1, 2); 16 bits."""

# 1/sqrt(v) for LayerNorm.
RSQRT_INDEX_BITS = 9
RSQRT_TABLE: tuple[int, ...] = tuple(
    min(65535, round(65536 / math.sqrt((max(i, 128) + 0.5) / 128)))
    for i in range(1 << RSQRT_INDEX_BITS)
)
"""1 / sqrt(f) in Q0.16 at the middle of segments of 1/128; index f * 128, 128 .. 511 used."""
