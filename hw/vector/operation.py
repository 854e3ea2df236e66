"""What the lanes do to a chunk, and the record that accompanies it."""

from __future__ import annotations

import enum

from amaranth import signed
from amaranth.lib import data

from moesaic.hw.interfaces import instruction_layout
from moesaic.spec import isa, tables
from moesaic.spec.arch import MAX_TOKENS, ArchConfig
from moesaic.spec.formats import (
    ADDEND_BITS,
    LOGIT_BITS,
    MULTIPLIER_BITS,
    RESIDUAL_BITS,
    SHIFT_BITS,
)
from moesaic.spec.isa import UNIT_COUNT, Drain, Opcode

OPERATION_BITS = isa.width(Opcode.DRAIN, "kind")
NORM = len(Drain)
"""Operations below are the kinds of DRAIN; this is the normalise pass of NORM."""

EXPONENT_LIMIT = tables.EXPONENT_BITS + 1
"""A distance is not negative, so this clamps exponents to ``EXPONENT_BITS``."""

LIMITS = (8, EXPONENT_LIMIT, RESIDUAL_BITS, tables.GELU_INPUT_BITS, ADDEND_BITS)
"""Widths that the first requantiser saturates to."""

LIMIT_BITS: dict[int, int] = {
    Drain.INT8: 8,
    Drain.GELU: tables.GELU_INPUT_BITS,
    Drain.RESIDUAL: ADDEND_BITS,
    Drain.LOGITS: LOGIT_BITS,
    Drain.OUTPUT: RESIDUAL_BITS,
    Drain.SOFTMAX: EXPONENT_LIMIT,
    Drain.ATTENTION: 8,
    NORM: RESIDUAL_BITS,
}

PARAMETER_KINDS = (Drain.INT8, Drain.GELU, Drain.RESIDUAL, Drain.LOGITS, Drain.OUTPUT)
"""Kinds that consume parameter blocks."""

SPLIT_KINDS = tuple(kind for kind in isa.WIDE_DRAINS if kind != Drain.GELU)
"""Kinds whose 16-bit results the first requantiser gives; GELU's come from the second."""

ROWS_OUTSIDE_KINDS = (Drain.SOFTMAX, Drain.LOGITS)
"""Kinds that finish a row before they begin the next one."""

_CHANNEL_BITS = isa.width(Opcode.NORM, "channels")
TOTAL_BITS = _CHANNEL_BITS + RESIDUAL_BITS + 1
"""Signed sum of a row: less than ``2**_CHANNEL_BITS`` channels."""
SQUARE_BITS = _CHANNEL_BITS + 2 * RESIDUAL_BITS - 1
"""Sum of a row's squares."""
VARIANCE_BITS = -(-(_CHANNEL_BITS + SQUARE_BITS) // 2) * 2
"""channels * sum of squares, made even. The largest square is a power of two, which its width
leaves a bit above: enough for epsilon."""
ROW_BITS = MAX_TOKENS.bit_length()
"""Row counts up to the longest queue."""
COLUMN_BITS = isa.width(Opcode.DRAIN, "columns") + 1
"""Columns of a row, rounded up to a multiple of ``width``."""


class Destination(enum.IntEnum):
    """Where a finished chunk leaves the unit."""

    NONE = 0
    ACTIVATION = 1
    LOGITS = 2
    OUTPUT = 3


DESTINATION: dict[int, Destination] = {
    Drain.INT8: Destination.ACTIVATION,
    Drain.GELU: Destination.ACTIVATION,
    Drain.RESIDUAL: Destination.NONE,
    Drain.LOGITS: Destination.LOGITS,
    Drain.OUTPUT: Destination.OUTPUT,
    Drain.SOFTMAX: Destination.ACTIVATION,
    Drain.ATTENTION: Destination.ACTIVATION,
    NORM: Destination.ACTIVATION,
}

INSTRUCTION_BITS = max(
    instruction_layout(opcode).as_shape().width for opcode in (Opcode.DRAIN, Opcode.NORM)
)


def issue_layout(arch: ArchConfig) -> data.StructLayout:
    """A chunk as it enters the pipeline.

    ``null`` chunks have no effect but that of ``last``, which ends the instruction.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "operation": OPERATION_BITS,
            "null": 1,
            "put": 1,  # takes a place in the output stage
            "row": ROW_BITS,
            "column": COLUMN_BITS,  # of the chunk's first lane
            "chunk": max(1, (arch.chunks - 1).bit_length()),  # within the accumulator row
            "lanes": arch.lanes,  # valid columns
            "row_first": 1,  # first and last chunk of the row (rows outside only)
            "row_last": 1,
            "last": 1,  # of the instruction
        }
    )


def statistics_layout() -> data.StructLayout:
    """What the normalise pass needs to know of a row."""
    return data.StructLayout(
        {"total": signed(TOTAL_BITS), "gain": MULTIPLIER_BITS, "shift": SHIFT_BITS}
    )


def output_layout(arch: ArchConfig) -> data.StructLayout:
    """Destination of a chunk, known long before its data."""
    address = max(1, (arch.activation_words - 1).bit_length())
    return data.StructLayout(
        {
            "destination": range(len(Destination)),
            "address": address,  # activation word
            "select": max(1, (arch.depth // arch.lanes - 1).bit_length()),  # chunk of the word
            "wide": 1,  # also the high and the low plane, each `plane` words on
            "planes_only": 1,  # with `wide`: no int8 result in front of the planes
            "plane": address,
            "row_last": 1,
            "last": 1,  # of the instruction, which then gives the tokens of `signal`
            "signal": UNIT_COUNT,
        }
    )
