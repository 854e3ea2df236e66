"""Operands of a product: which rows, from which buffer, and in which order of columns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from moesaic.compiler.schedule.steps import QUEUES_READ, Access, Address, Buffer, reads, writes
from moesaic.spec import isa
from moesaic.spec.intgraph import IntNorm

LAYOUTS = 256
"""Layouts of columns that are kept: every layer has the same few, and a search lowers it often."""


@dataclass(frozen=True)
class Rows:
    """Rows that a product works on: ``count`` from ``first`` on, or an expert's queue, which has
    ``count`` rows if that is not 0."""

    count: int
    expert: int | None = None
    first: int = 0

    @staticmethod
    def block(rows: range) -> Rows:
        """Rows from ``rows.start`` to below ``rows.stop``."""
        return Rows(len(rows), first=rows.start)

    @property
    def fields(self) -> dict[str, int]:
        if self.expert is None:
            return {"rows": self.count}
        return {"predicated": 1, "expert": self.expert}

    @property
    def accesses(self) -> tuple[Access, ...]:
        return () if self.expert is None else (QUEUES_READ,)


@lru_cache(LAYOUTS)
def natural(count: int, size: int) -> tuple[int, ...]:
    """Indices 0 .. count - 1, padded with -1 to a multiple of ``size``."""
    return (*range(count), *([-1] * (-count % size)))


@lru_cache(LAYOUTS)
def per_head(heads: range, dim: int, size: int) -> tuple[int, ...]:
    """Indices of the groups ``heads`` of ``dim`` indices each, padded with -1 to a multiple of
    ``size``."""
    pad = -dim % size
    return tuple(head * dim + i if i < dim else -1 for head in heads for i in range(dim + pad))


def pad_to(indices: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Pad with -1 to a multiple of ``size``."""
    return (*indices, *([-1] * (-len(indices) % size)))


@dataclass(frozen=True)
class RowBuffer:
    """A buffer that holds ``stride`` words of each of some ``rows`` of the stream, in one plane or
    several. ``wide`` is that of the high and the low plane of the same rows, where they have one.
    """

    buffer: Buffer
    rows: range
    stride: int
    wide: Buffer | None = None

    def at(self, row: int, word: int = 0) -> Address:
        """Where a word of a row of the stream is."""
        return Address(self.buffer, (row - self.rows.start) * self.stride + word)

    @property
    def plane(self) -> int:
        """Words from a plane to the next one, if there are several."""
        return len(self.rows) * self.stride

    def _within(self, rows: range) -> range:
        return range(rows.start - self.rows.start, rows.stop - self.rows.start)

    def reads(self, rows: range) -> tuple[Access, ...]:
        """Accesses that read some of its rows."""
        return reads(self.buffer, rows=self._within(rows))

    def writes(self, rows: range) -> tuple[Access, ...]:
        """Accesses that write some of its rows, in all planes."""
        buffers = (self.buffer, self.wide) if self.wide else (self.buffer,)
        return writes(*buffers, rows=self._within(rows))


@dataclass(frozen=True)
class Source:
    """Rows of a buffer as a MATMUL streams them.

    ``row`` is the number of its first row, and ``first`` the word of that row, in the high plane if
    there are two; ``plane`` the words from there to the low one. ``stride`` words lie between rows
    if not just those of a plane, and ``wide`` k-tiles have both planes if not all.
    """

    buffer: Buffer
    streamed: isa.Streamed = isa.Streamed.SIGNED8
    first: int = 0
    plane: int = 0
    stride: int | None = None
    wide: int | None = None
    row: int = 0

    @staticmethod
    def normalised(rows: RowBuffer, wide: bool) -> Source:
        """The int8 rows, or with ``wide`` the 16-bit rows, that NORM has written; three planes
        if there are any 16-bit rows."""
        row = rows.rows.start
        if not wide:
            return Source(rows.buffer, row=row)
        buffer, first = (rows.wide, 0) if rows.wide else (rows.buffer, rows.plane)
        return Source(buffer, isa.Streamed.SIGNED16, first, rows.plane, row=row)

    @staticmethod
    def attended(rows: RowBuffer, wide: bool) -> Source:
        """The int8 rows, or with ``wide`` those in two planes, that heads have written."""
        row = rows.rows.start
        if not wide:
            return Source(rows.buffer, row=row)
        return Source(rows.buffer, isa.Streamed.SIGNED16, plane=rows.plane, row=row)

    def part(self, word: int, stride: int) -> Source:
        """The words from ``word`` on of rows of ``stride`` words."""
        return replace(self, first=self.first + word, stride=stride)


@dataclass
class Normal:
    """Normalised ``rows`` of the stream for what reads it next, in three planes if ``wide``.

    ``place`` has all of them; those below ``until`` are written, one of ``blocks`` behind the
    other. Where it is None, each block is normalised when a product reads it.
    """

    norm: IntNorm
    rows: range
    wide: bool
    layer: int
    label: str
    place: RowBuffer | None
    blocks: list[range]
    until: int = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is written yet."""
        self.until = self.rows.start

    def source(self, wide: bool) -> Source:
        """The int8 rows, or with ``wide`` the 16-bit rows, of those that have a place."""
        assert self.place is not None
        return Source.normalised(self.place, wide)
