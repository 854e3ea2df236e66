"""Steps: instructions before addresses and tokens are known."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from moesaic.spec import isa
from moesaic.spec.intgraph import IntLinear


class Resource(enum.Enum):
    """What steps of different units can conflict on."""

    ACTIVATION = "activation scratchpad"
    RESIDUAL = "residual scratchpad"
    QUEUES = "expert queues"
    TABLE_0 = "first activation table"
    TABLE_1 = "second activation table"


@dataclass(eq=False)
class Buffer:
    """A piece of the activation scratchpad; the memory plan sets ``base``.

    ``side`` is a wish: buffers of different sides are read at the same time and should lie in
    different banks.
    """

    name: str
    words: int
    side: int = 0
    base: int = -1


@dataclass(frozen=True)
class Address:
    """A field's value that is known only after the memory plan: word ``offset`` of ``buffer``."""

    buffer: Buffer
    offset: int = 0


@dataclass(frozen=True)
class Access:
    """One operand of a step: a buffer, or a whole resource when ``buffer`` is None."""

    resource: Resource
    write: bool
    buffer: Buffer | None = None


def conflict(a: Access, b: Access) -> bool:
    """Whether the order of two accesses matters: one writes, and their addresses overlap."""
    if a.resource is not b.resource or not (a.write or b.write):
        return False
    if a.buffer is None or b.buffer is None:
        return True
    return (
        a.buffer.base < b.buffer.base + b.buffer.words
        and b.buffer.base < a.buffer.base + a.buffer.words
    )


@dataclass(frozen=True)
class Weights:
    """What a MATMUL takes from the ring: an integer linear in an array layout.

    ``rows`` maps each array row (k) to an input of ``linear`` and ``columns`` each array column
    (n) to an output; -1 is padding.
    """

    linear: IntLinear
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass
class Step:
    """One instruction in the making."""

    opcode: isa.Opcode
    fields: dict[str, int | Address]
    accesses: tuple[Access, ...] = ()
    weights: Weights | None = None
    layer: int = 0
    label: str = ""
    wait: set[isa.Unit] = field(default_factory=set)
    signal: set[isa.Unit] = field(default_factory=set)

    @property
    def unit(self) -> isa.Unit:
        unit = isa.UNIT_OF[self.opcode]
        assert unit is not None
        return unit


def reads(*buffers: Buffer) -> tuple[Access, ...]:
    """Accesses that read activation buffers."""
    return tuple(Access(Resource.ACTIVATION, False, buffer) for buffer in buffers)


def writes(*buffers: Buffer) -> tuple[Access, ...]:
    """Accesses that write activation buffers."""
    return tuple(Access(Resource.ACTIVATION, True, buffer) for buffer in buffers)


RESIDUAL_READ = Access(Resource.RESIDUAL, False)
RESIDUAL_WRITE = Access(Resource.RESIDUAL, True)
TABLES = (Resource.TABLE_0, Resource.TABLE_1)
QUEUES_READ = Access(Resource.QUEUES, False)
QUEUES_WRITE = Access(Resource.QUEUES, True)
