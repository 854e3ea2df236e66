"""Steps: instructions before addresses and tokens are known."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.intgraph import IntLinear


class Resource(enum.Enum):
    """What steps of different units can conflict on."""

    ACTIVATION = "activation scratchpad"
    RESIDUAL = "residual scratchpad"
    ANGLES = "angles of rotations"
    SCRATCH = "rows of the residual stream in external memory"
    QUEUES = "expert queues"
    TABLE_0 = "first activation table"
    TABLE_1 = "second activation table"

    __hash__ = object.__hash__  # an enumeration's own is slow


@dataclass(eq=False)
class Buffer:
    """A piece of the activation scratchpad; the memory plan sets ``base``.

    ``side`` is a wish: buffers of different sides are read at the same time and should lie in
    different banks. ``behind``, if there is one, begins where this one ends, and has a lifetime of
    its own.
    """

    name: str
    words: int
    side: int = 0
    base: int = -1
    behind: Buffer | None = None


@dataclass(frozen=True)
class Address:
    """A field's value that is known only after the memory plan: word ``offset`` of ``buffer``."""

    buffer: Buffer
    offset: int = 0


class Access(NamedTuple):
    """One operand of a step: a buffer, or a whole resource when ``buffer`` is None; of it these
    ``rows``, or all when None."""

    resource: Resource
    write: bool
    buffer: Buffer | None = None
    rows: range | None = None

    def within(self, other: Access) -> bool:
        """Whether ``other`` is of the same place, and of all the rows."""
        if self.resource is not other.resource or self.buffer is not other.buffer:
            return False
        if other.rows is None or self.rows is None:
            return other.rows is None
        return other.rows.start <= self.rows.start and self.rows.stop <= other.rows.stop


def conflict(a: Access, b: Access) -> bool:
    """Whether the order of two accesses matters: one writes, and their addresses overlap."""
    if a.resource is not b.resource or not (a.write or b.write):
        return False
    if a.buffer is b.buffer and a.rows is not None and b.rows is not None:
        return a.rows.start < b.rows.stop and b.rows.start < a.rows.stop
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

    @property
    def source(self) -> isa.Stationary:
        """How the MATMUL finds them in the ring."""
        return isa.Stationary.RING4 if self.linear.few_bits else isa.Stationary.RING

    def ring_words(self, arch: ArchConfig) -> int:
        """Ring words of the whole segment: of each column tile a parameter block and its tiles."""
        tiles = len(self.rows) // arch.depth * arch.segment_tile_words(self.source)
        return len(self.columns) // arch.width * (arch.parameter_ring_words + tiles)


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
    queue_rows: tuple[int, ...] = ()
    """Of a ROUTE whose scores are constants: rows of each queue."""

    @property
    def unit(self) -> isa.Unit:
        unit = isa.UNIT_OF[self.opcode]
        assert unit is not None
        return unit


def reads(*buffers: Buffer, rows: range | None = None) -> tuple[Access, ...]:
    """Accesses that read activation buffers."""
    return tuple([Access(Resource.ACTIVATION, False, buffer, rows) for buffer in buffers])


def writes(*buffers: Buffer, rows: range | None = None) -> tuple[Access, ...]:
    """Accesses that write activation buffers."""
    return tuple([Access(Resource.ACTIVATION, True, buffer, rows) for buffer in buffers])


def reads_stream(rows: range | None = None) -> Access:
    """An access that reads rows of the residual stream, or all."""
    return Access(Resource.RESIDUAL, False, rows=rows)


def writes_stream(rows: range | None = None) -> Access:
    """An access that writes rows of the residual stream, or all."""
    return Access(Resource.RESIDUAL, True, rows=rows)


def updates_stream(rows: range | None = None) -> tuple[Access, ...]:
    """Accesses that add to rows of the residual stream, or all."""
    return reads_stream(rows), writes_stream(rows)


ANGLES_READ = Access(Resource.ANGLES, False)
ANGLES_WRITE = Access(Resource.ANGLES, True)


def reads_scratch(rows: range | None = None) -> Access:
    """An access that reads rows of the stream in external memory, or all."""
    return Access(Resource.SCRATCH, False, rows=rows)


def writes_scratch(rows: range | None = None) -> Access:
    """An access that writes rows of the stream to external memory, or all."""
    return Access(Resource.SCRATCH, True, rows=rows)


TABLES = (Resource.TABLE_0, Resource.TABLE_1)
QUEUES_READ = Access(Resource.QUEUES, False)
QUEUES_WRITE = Access(Resource.QUEUES, True)
