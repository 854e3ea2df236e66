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

# An activation is z, if it is positive, less a correction: a table of |z| that a program loads.
ACTIVATION_INPUT_BITS = 18
"""z is signed; what one step is worth is the table's affair."""
ACTIVATION_STEP_BITS = 7
"""The table has an entry for every 128 steps of |z|; in between it is interpolated."""
ACTIVATION_ENTRIES = 256
"""The last one holds for all |z| from 255 * 128 on."""
ACTIVATION_FINE_BITS = 2
"""Results and entries have so many fraction bits more than z."""
ACTIVATION_VALUE_BITS = 18
"""An entry, signed."""
ACTIVATION_SLOPE_BITS = 12
"""The difference of neighbouring entries, signed."""
ACTIVATION_RESULT_BITS = ACTIVATION_INPUT_BITS + ACTIVATION_FINE_BITS + 1
"""A result, signed: z with its fraction bits, and a correction of either sign."""
ACTIVATION_TABLES = 2
"""Tables that are resident at a time."""

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
