"""What the lanes do to a chunk, and the record that accompanies it."""

from __future__ import annotations

import enum
import functools
import operator
from collections.abc import Collection, Iterable
from typing import TypeVar

from amaranth import Cat, Value, signed
from amaranth.lib import data

from moesaic.hw.interfaces import instruction_layout
from moesaic.spec import isa
from moesaic.spec.arch import MAX_TOKENS, ArchConfig
from moesaic.spec.drains import DRAINS, Destination, Function, Operand, Wide, takes_pairs
from moesaic.spec.formats import MULTIPLIER_BITS, RESIDUAL_BITS, ROTARY_BITS, SHIFT_BITS
from moesaic.spec.isa import UNIT_COUNT, Drain, Opcode

E = TypeVar("E", bound=enum.Enum)

NORM = max(Drain) + 1
"""Operations below are the kinds of DRAIN; this is the normalise pass of NORM."""
OPERATION_BITS = NORM.bit_length()

LIMIT_BITS: dict[int, int] = {kind: each.bits for kind, each in DRAINS.items()}
LIMIT_BITS[NORM] = RESIDUAL_BITS
LIMITS = tuple(sorted({*LIMIT_BITS.values(), ROTARY_BITS}))
"""Widths that the first requantiser saturates to."""

DESTINATION: dict[int, Destination] = {kind: each.destination for kind, each in DRAINS.items()}
DESTINATION[NORM] = Destination.ACTIVATION


def check_implemented(where: str, wanted: Collection[E], known: Collection[E]) -> None:
    """Fail, when the gateware is elaborated, where a kind of DRAIN wants what nobody has written.

    Raises
    ------
    NotImplementedError
        Something that is wanted is not known.
    """
    for each in wanted:
        if each not in known:
            raise NotImplementedError(f"{where} must implement {each} of spec/drains.py")


def _where(kinds: Iterable[tuple[Drain, bool]]) -> tuple[Drain, ...]:
    return tuple(kind for kind, wanted in kinds if wanted)


def kinds_of(what: Function | Operand) -> tuple[Drain, ...]:
    """The kinds that have a function or an operand."""
    return _where((kind, what in (each.function, each.operand)) for kind, each in DRAINS.items())


def is_none(value: Value, kinds: tuple[int, ...]) -> Value:
    """Whether an operation is another one than all of these."""
    return functools.reduce(operator.and_, [value != kind for kind in kinds])


def is_any(value: Value, kinds: tuple[Drain, ...]) -> Value:
    """Whether an operation is one of several kinds."""
    if len(kinds) == 1:
        return value == kinds[0]
    return Cat(value == kind for kind in kinds).any()


PARAMETER_KINDS = _where((kind, each.parameters) for kind, each in DRAINS.items())
"""Kinds that consume parameter blocks."""
ROTARY_KINDS = _where((kind, each.rotary) for kind, each in DRAINS.items())
"""Kinds that can rotate pairs of chunks."""
WIDE_KINDS = _where((kind, each.wide is not Wide.NEVER) for kind, each in DRAINS.items())
"""Kinds that can write 16-bit results, in two planes."""
SPLIT_KINDS = _where((kind, each.wide is Wide.FIRST) for kind, each in DRAINS.items())
"""Kinds whose 16-bit results the first requantiser gives."""
UNSENT_KINDS = _where((kind, each.destination is Destination.NONE) for kind, each in DRAINS.items())
"""Kinds whose chunks take no place in the output stage."""
PAIR_KINDS = _where((kind, takes_pairs(kind, wide=False)) for kind in DRAINS)
"""Kinds that take two chunks at a time where there are lanes for it, unless results are wide."""
ROWS_OUTSIDE_KINDS = _where((kind, each.rows_outside) for kind, each in reversed(DRAINS.items()))
"""Kinds that finish a row before they begin the next one. In the order that is in the Verilog whose
clock has been recorded; it has no meaning."""

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


INSTRUCTION_BITS = max(
    instruction_layout(opcode).as_shape().width for opcode in (Opcode.DRAIN, Opcode.NORM)
)


def _pair_fields(arch: ArchConfig, *names: str) -> dict[str, int]:
    """Fields of what only ``chunk_pairs`` have."""
    return dict.fromkeys(names, 1) if arch.chunk_pairs else {}


def issue_layout(arch: ArchConfig) -> data.StructLayout:
    """A chunk as it enters the pipeline.

    ``null`` chunks have no effect but that of ``last``, which ends the instruction. With
    ``chunk_pairs`` a chunk may be ``both`` of a pair, or come one after the other into the same
    place of the output stage: the first one ``opens`` it, the second one ``joins`` it.
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
            "lanes": arch.most_lanes,  # valid columns
            **_pair_fields(arch, "both", "opens", "joins"),
            "holds": 1,  # first chunk of a pair, which has no result of its own
            "paired": 1,  # second chunk of a pair
            "rotary": 1,  # chunk of a pair that is rotated; each comes twice
            "second": 1,  # it is the pair's second one
            "again": 1,  # and comes the second time
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
            **_pair_fields(arch, "pair"),  # and the other one beside it
            "wide": 1,  # also the high and the low plane, each `plane` words on
            "planes_only": 1,  # with `wide`: no int8 result in front of the planes
            "plane": address,
            "row_last": 1,
            "last": 1,  # of the instruction, which then gives the tokens of `signal`
            "signal": UNIT_COUNT,
        }
    )
