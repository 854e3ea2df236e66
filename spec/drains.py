"""What each kind of DRAIN does, in one table.

Gateware, cost model, functional models and benches read it; a kind is added here and, where it does
something new, in the lanes (``hw/vector``), whose elaboration fails until they can do it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from moesaic.spec.formats import ADDEND_BITS, LOGIT_BITS, RESIDUAL_BITS
from moesaic.spec.isa import Drain
from moesaic.spec.tables import ACTIVATION_INPUT_BITS, EXPONENT_BITS


class Operand(enum.Enum):
    """What the first requantisation takes, and whose multiplier and shift it uses."""

    BIASED = "accumulator and bias; by the column's entry in a parameter block of the ring"
    BELOW_MAXIMUM = "the row's maximum less the accumulator; by the instruction"
    SCALED_ROW = "accumulator; by the row's scale and the instruction"


class Function(enum.Enum):
    """What follows the first requantisation."""

    NONE = "nothing"
    ACTIVATION = "the loaded function, and the second requantisation by the instruction"
    UPDATE = "the second requantisation by the gate weight, and the sum with the residual stream"
    EXPONENTIAL = "2 to its negative, and the row's sum; rows end with zeros to a whole word"


class Destination(enum.IntEnum):
    """Where a finished chunk leaves the vector unit."""

    NONE = 0
    ACTIVATION = 1
    LOGITS = 2
    OUTPUT = 3


class Wide(enum.Enum):
    """Which requantisation gives 16 bits, in two planes, if the instruction is `wide`."""

    NEVER = 0
    FIRST = 1
    SECOND = 2


@dataclass(frozen=True)
class DrainKind:
    """One kind.

    Attributes
    ----------
    operand, function, destination, wide
        See there.
    bits
        Width, signed, that the first requantisation saturates to where the result is not wide.
    rows_outside
        It finishes a row of all column tiles before it begins the next one.
    rotary
        It can rotate pairs of columns, if the instruction says so.
    """

    operand: Operand
    bits: int
    destination: Destination
    function: Function = Function.NONE
    wide: Wide = Wide.NEVER
    rows_outside: bool = False
    rotary: bool = False

    @property
    def parameters(self) -> bool:
        """Whether it consumes a parameter block for every column tile."""
        return self.operand is Operand.BIASED


EXPONENT_LIMIT = EXPONENT_BITS + 1
"""A distance is not negative, so this clamps exponents to ``EXPONENT_BITS``."""

DRAINS: dict[Drain, DrainKind] = {
    Drain.INT8: DrainKind(Operand.BIASED, 8, Destination.ACTIVATION, wide=Wide.FIRST, rotary=True),
    Drain.ACTIVATION: DrainKind(
        Operand.BIASED,
        ACTIVATION_INPUT_BITS,
        Destination.ACTIVATION,
        Function.ACTIVATION,
        Wide.SECOND,
    ),
    Drain.RESIDUAL: DrainKind(Operand.BIASED, ADDEND_BITS, Destination.NONE, Function.UPDATE),
    Drain.LOGITS: DrainKind(Operand.BIASED, LOGIT_BITS, Destination.LOGITS, rows_outside=True),
    Drain.OUTPUT: DrainKind(Operand.BIASED, RESIDUAL_BITS, Destination.OUTPUT),
    Drain.SOFTMAX: DrainKind(
        Operand.BELOW_MAXIMUM,
        EXPONENT_LIMIT,
        Destination.ACTIVATION,
        Function.EXPONENTIAL,
        rows_outside=True,
    ),
    Drain.ATTENTION: DrainKind(Operand.SCALED_ROW, 8, Destination.ACTIVATION, wide=Wide.FIRST),
}


def takes_pairs(kind: Drain, wide: bool) -> bool:
    """Whether a kind drains two chunks at a time on a target with ``chunk_pairs``: where lanes have
    no parameters of their own, and results that are ``wide`` are not asked for."""
    each = DRAINS[kind]
    return not each.parameters and not (wide and each.wide is not Wide.NEVER)
