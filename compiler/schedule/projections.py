"""Keys, queries and values: linear layers whose results begin every head with a word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from moesaic.compiler.schedule.head_start import head_start
from moesaic.compiler.schedule.operands import (
    Normal,
    RowBuffer,
    Rows,
    Source,
    natural,
    pad_to,
    per_head,
)
from moesaic.compiler.schedule.steps import ANGLES_READ, Weights
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec import isa, layout
from moesaic.spec.constants import angle_key, angle_places
from moesaic.spec.formats import ANGLE_FRACTION_BITS
from moesaic.spec.intgraph import IntAttention, IntLinear, IntRotary


@dataclass(frozen=True)
class Projection:
    """Keys, queries or values of ``heads`` heads: outputs ``indices`` of a linear layer, which are
    int8 or, with ``wide``, two planes; every head begins with a word. With ``rotary`` they are
    rotated by the angles that begin at residual word ``angles``."""

    name: str
    linear: IntLinear
    heads: int
    indices: tuple[int, ...]
    side: int
    wide: bool
    rotary: bool = False
    angles: int = 0

    @staticmethod
    def of(
        writer: StepWriter,
        layer: IntAttention,
        heads: range,
        name: str,
        linear: IntLinear,
        side: int,
        wide: bool,
    ) -> Projection:
        rotary, angles = layer.rotary if name != "value" else None, 0
        dim = layer.value_dim if name == "value" else layer.head_dim
        if rotary is not None:
            indices = _rotated_columns(writer, layer, rotary, heads)
            angles = angle_places(writer.graph, writer.arch)[angle_key(rotary)]
        else:
            indices = per_head(heads, dim, writer.arch.depth)
        turned = rotary is not None
        return Projection(name, linear, len(heads), indices, side, wide, turned, angles)

    def place(self, writer: StepWriter, rows: range) -> RowBuffer:
        """Room for the results of some rows of the stream."""
        planes, columns = 2 if self.wide else 1, len(self.indices)
        name = f"{self.name}{rows.start or ''}"
        buffer = writer.buffer(name, len(rows), columns, self.side, planes)
        return RowBuffer(buffer, rows, writer.words(columns))

    def begin(
        self, writer: StepWriter, rows: Normal, wide: bool, block: range, place: RowBuffer
    ) -> None:
        """Write the product of a block of rows that is the first to read them."""
        source, columns = rows.source(wide), len(self.indices)
        parts, tiles = [block], 0
        if not self.rotary:
            every = layout.words(columns, writer.arch.width)
            parts, tiles = head_start(writer, rows, block, every)
        first = min(tiles * writer.arch.width, columns)
        for part in parts if first else ():
            self._product(writer, source, part, place, range(first), {}, one_group=True)
        if first < columns:
            self.lower(writer, source, block, place, first)

    def lower(
        self, writer: StepWriter, normal: Source, block: range, place: RowBuffer, first: int = 0
    ) -> None:
        """Write the product of a block of rows, from column ``first`` on if it is not rotated."""
        if not self.rotary:
            self._product(writer, normal, block, place, range(first, len(self.indices)), {})
            return
        # A bank must hold both chunks of a pair.
        arch, head = writer.arch, len(self.indices) // self.heads
        most = arch.accumulator_rows // _pair_tiles(writer)
        for rows in self._turned_rows(writer, block, most):
            for columns in _pieces(writer, head, self.heads, len(rows)):
                first = (
                    rows.start % writer.graph.tokens * (head // arch.lanes)
                    + columns.start % head // arch.lanes
                )
                turn = {
                    "rotary": 1,
                    "shift": ANGLE_FRACTION_BITS,
                    "angles": self.angles + first,
                    "angle_words": head // arch.lanes,
                }
                self._product(writer, normal, rows, place, columns, turn)

    def _turned_rows(self, writer: StepWriter, block: range, most: int) -> Iterator[range]:
        """Rows of a block, ``most`` at a time: angles begin again with a frame."""
        for frame in writer.frames:
            stop = min(block.stop, frame.stop)
            for start in range(max(block.start, frame.start), stop, most):
                yield range(start, min(start + most, stop))

    def _product(
        self,
        writer: StepWriter,
        normal: Source,
        rows: range,
        place: RowBuffer,
        columns: range,
        turn: dict[str, int],
        one_group: bool = False,
    ) -> None:
        arch = writer.arch
        inputs = natural(self.linear.inputs, arch.depth)
        outputs = self.indices[columns.start : columns.stop]
        writer.linear(
            normal,
            Weights(self.linear, inputs, pad_to(outputs, arch.width)),
            Rows.block(rows),
            {
                "kind": isa.Drain.INT8,
                "base": place.at(rows.start, columns.start // arch.depth),
                "stride": place.stride,
                "wide": int(self.wide),
                "plane_stride": place.plane if self.wide else 0,
                **turn,
            },
            (*place.writes(rows), *([ANGLES_READ] if turn else [])),
            columns=len(outputs),
            one_group=one_group or bool(turn),
        )


class Projections(NamedTuple):
    """Those of some heads."""

    key: Projection
    query: Projection
    value: Projection

    @staticmethod
    def of(writer: StepWriter, layer: IntAttention, heads: range) -> Projections:
        return Projections(
            Projection.of(writer, layer, heads, "key", layer.key, 1, False),
            Projection.of(writer, layer, heads, "query", layer.query, 0, layer.wide_query),
            Projection.of(writer, layer, heads, "value", layer.value, 1, False),
        )

    def lower_keys(
        self, writer: StepWriter, rows: Normal, wide: bool
    ) -> tuple[RowBuffer, RowBuffer]:
        """Write keys and values of all rows, a block behind the other; returns where they are. The
        rows of the next block are normalised while the array works on this one."""
        every = writer.rows
        keys, values = self.key.place(writer, every), self.value.place(writer, every)
        blocks = writer.blocks(every)

        def read(block: range) -> Normal:
            if not rows.place:
                writer.fetch(block, update=False)
            return writer.normalise(rows, block)

        ahead = read(blocks[0])
        for number, block in enumerate(blocks):
            source = ahead.source(wide)
            if number + 1 < len(blocks):
                ahead = read(blocks[number + 1])
            self.key.lower(writer, source, block, keys)
            self.value.lower(writer, source, block, values)
        return keys, values


def _rotated_columns(
    writer: StepWriter, layer: IntAttention, rotary: IntRotary, heads: range
) -> tuple[int, ...]:
    """Outputs of the query or the key in the order in which pairs of chunks are rotated."""
    one = layout.rotary_columns(writer.arch, rotary.pairs)
    return tuple(
        head * layer.head_dim + channel if channel >= 0 else -1 for head in heads for channel in one
    )


def _pair_tiles(writer: StepWriter) -> int:
    """Column tiles that a pair of chunks lies in."""
    return max(1, 2 * writer.arch.lanes // writer.arch.width)


def _pieces(writer: StepWriter, head: int, heads: int, rows: int) -> Iterator[range]:
    """Rotated columns, ``head`` for each head, in pieces that an accumulator bank holds: whole
    heads, or parts of one, because angles begin again with a head only."""
    tiles, limit = _pair_tiles(writer), writer.bank_limit(Rows(rows))
    most = max(tiles, min(limit, writer.schedule.bank_tiles) // tiles * tiles)
    columns = most * writer.arch.width
    if columns >= head:
        step = columns // head * head
        for start in range(0, heads * head, step):
            yield range(start, min(start + step, heads * head))
        return
    for first in range(0, heads * head, head):
        for start in range(first, first + head, columns):
            yield range(start, min(start + columns, first + head))
