"""What the lanes do to a chunk, and the record that accompanies it."""

from __future__ import annotations

import enum

from amaranth import signed
from amaranth.lib import data

from moesaic.hw.interfaces import instruction_layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import Drain, Opcode

OPERATION_BITS = 3
NORM = 7
"""Operations 0 to 6 are the kinds of DRAIN; 7 is the normalise pass of NORM."""

LIMITS = (8, 13, 16, 18, 24)
"""Widths that the first requantiser saturates to."""

LIMIT_BITS: dict[int, int] = {
    Drain.INT8: 8,
    Drain.GELU: 18,
    Drain.RESIDUAL: 24,
    Drain.LOGITS: 24,
    Drain.OUTPUT: 16,
    Drain.SOFTMAX: 13,  # a distance is not negative, so this clamps exponents to 12 bits
    Drain.ATTENTION: 8,
    NORM: 16,
}

PARAMETER_KINDS = (Drain.INT8, Drain.GELU, Drain.RESIDUAL, Drain.LOGITS, Drain.OUTPUT)
"""Kinds that consume parameter blocks."""

ROWS_OUTSIDE_KINDS = (Drain.SOFTMAX, Drain.LOGITS)
"""Kinds that finish a row before they begin the next one."""

TOTAL_BITS = 30
"""Signed sum of a row: at most 2**13 channels of int16."""
VARIANCE_BITS = 58
"""channels * sum of squares below 2**13 * 2**43, plus 48 bits of epsilon, made even."""
ROW_BITS = 13
"""Row counts up to 4096."""
COLUMN_BITS = 17
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
    return data.StructLayout({"total": signed(TOTAL_BITS), "gain": 16, "shift": 6})


def output_layout(arch: ArchConfig) -> data.StructLayout:
    """Destination of a chunk, known long before its data."""
    address = max(1, (arch.activation_words - 1).bit_length())
    return data.StructLayout(
        {
            "destination": 2,
            "address": address,  # activation word
            "select": max(1, (arch.depth // arch.lanes - 1).bit_length()),  # chunk of the word
            "wide": 1,  # also the high and the low plane, each `plane` words on
            "plane": address,
            "row_last": 1,
            "last": 1,  # of the instruction, which then gives the tokens of `signal`
            "signal": 6,
        }
    )
