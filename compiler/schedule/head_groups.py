"""Attention some heads at a time: only their keys and values are of all tokens then.

What they give goes to scratch, a column tile behind the other, and comes back for the output
projection. A product with an identity sends it, as int16 codes; a LOAD brings it to the residual
memory, and a NORM of plain rows makes activations of it again. Nothing is rounded on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from moesaic.compiler.schedule.heads import (
    Head,
    add_attended,
    attended_columns,
    attended_rows,
    query_parts,
    scored,
)
from moesaic.compiler.schedule.operands import Normal, RowBuffer, Rows, Source, natural
from moesaic.compiler.schedule.projections import Projections
from moesaic.compiler.schedule.spill import Spill
from moesaic.compiler.schedule.steps import (
    Buffer,
    Weights,
    reads_scratch,
    reads_stream,
    writes_scratch,
    writes_stream,
)
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec import isa, layout
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntAttention, IntLinear


def lower_in_groups(
    writer: StepWriter, layer: IntAttention, rows: Normal, groups: list[range]
) -> None:
    """Write the steps of one attention layer, the heads of each group behind those of the other;
    the rows of the next block, or of the next part, are normalised while the array works."""
    tiles, blocks = _tiles(writer, layer, groups), writer.blocks(writer.rows)
    for group in groups:
        projections = Projections.of(writer, layer, group)
        keys, values = projections.lower_keys(writer, rows, layer.wide)
        heads = _heads(writer, layer, rows, group, projections, keys, values)
        ends = {block.stop: block for block in blocks}
        for head in scored(writer, heads):
            if head.number == group[-1] and head.rows.stop in ends:
                block = ends[head.rows.stop]
                for tile in tiles:
                    if tile.group == group:
                        _send(writer, layer, tile, head.attended, block)
    columns = tuple(column for tile in tiles for column in tile.columns)
    beside = _Beside(writer)
    ahead = _bring(writer, layer, tiles, blocks[0], beside)
    for number, block in enumerate(blocks):
        attended = ahead
        if number + 1 < len(blocks):
            ahead = _bring(writer, layer, tiles, blocks[number + 1], beside)
        source = Source.normalised(attended, layer.wide_attended)
        add_attended(writer, layer, source, columns, block, writer.resident(block))
        writer.complete(block.stop)


def _heads(
    writer: StepWriter,
    layer: IntAttention,
    rows: Normal,
    group: range,
    projections: Projections,
    keys: RowBuffer,
    values: RowBuffer,
) -> Iterator[Head]:
    """All heads of a group for a part of the queries behind the other, whose projection is
    written."""
    query = projections.query
    parts = [
        (block, part) for block in writer.blocks(writer.rows) for part in query_parts(writer, block)
    ]

    def begin(block: range, part: range) -> Normal:
        if not rows.place and part.start == block.start:
            writer.fetch(block, update=False)
        return writer.normalise(rows, part)

    ahead = begin(*parts[0])
    attended = None
    for number, (block, part) in enumerate(parts):
        if part.start == block.start or attended is None:
            attended = attended_rows(writer, layer, group, block)
        queries = query.place(writer, part)
        query.lower(writer, ahead.source(layer.wide), part, queries)
        for head in group:
            yield Head(layer, group, head, part, queries, keys, values, attended)
            if head == group[0] and number + 1 < len(parts):
                ahead = begin(*parts[number + 1])


@dataclass(frozen=True)
class _Tile:
    """A column tile of what the heads of a group give.

    Attributes
    ----------
    number
        Of all tiles.
    columns
        Inputs of the output projection, -1 for padding.
    words
        Words of a row of the group's results that hold them.
    inputs
        The column of the tile that each value of these words is, or -1.
    """

    number: int
    group: range
    columns: tuple[int, ...]
    words: range
    inputs: tuple[int, ...]

    def rows(self, writer: StepWriter, rows: range) -> range:
        """Of all rows in scratch, in which the stream's come first."""
        first = (1 + self.number) * len(writer.rows)
        return range(first + rows.start, first + rows.stop)

    def byte(self, writer: StepWriter, row: int) -> int:
        """Where a row of the tile is in the OUTPUT window."""
        rows, spill = len(writer.rows), _spill(writer)
        behind = spill.first_byte + rows * spill.row_bytes
        return behind + (self.number * rows + row) * 2 * writer.arch.width


def _tiles(writer: StepWriter, layer: IntAttention, groups: list[range]) -> list[_Tile]:
    width, depth = writer.arch.width, writer.arch.depth
    found: list[_Tile] = []
    for group in groups:
        places = attended_columns(writer, layer, group)
        values = [column for column in places if column >= 0]
        for first in range(0, len(values), width):
            columns = values[first : first + width]
            at = [places.index(column) // depth for column in (columns[0], columns[-1])]
            words = range(at[0], at[1] + 1)
            where = {column: number for number, column in enumerate(columns)}
            held = places[words.start * depth : words.stop * depth]
            inputs = tuple(where.get(column, -1) for column in held)
            padded = (*columns, *([-1] * (width - len(columns))))
            found.append(_Tile(len(found), group, padded, words, inputs))
    return found


@lru_cache(maxsize=256)
def _identity(inputs: tuple[int, ...], width: int) -> IntLinear:
    """The linear layer whose ``width`` results are these inputs as they are, and zeros."""
    weight = np.zeros((width, len(inputs)), np.int8)
    for number, column in enumerate(inputs):
        if column >= 0:
            weight[column, number] = 1
    return IntLinear(
        weight=weight,
        bias=np.zeros(width, np.int32),
        multiplier=np.full(width, 1 << 15, np.uint16),
        shift=np.full(width, 15, np.uint8),
    )


def _spill(writer: StepWriter) -> Spill:
    assert writer.spill is not None
    return writer.spill


def _send(
    writer: StepWriter, layer: IntAttention, tile: _Tile, attended: RowBuffer, rows: range
) -> None:
    """Write the product that sends a tile of some rows to scratch."""
    arch = writer.arch
    writer.emit(
        isa.Opcode.STORE,
        (writes_scratch(tile.rows(writer, rows)),),
        offset=tile.byte(writer, rows.start),
        words=layout.output_chunks(arch, len(rows), arch.width),
        single=1,
    )
    source = Source.attended(attended, layer.wide_attended)
    writer.linear(
        source.part(tile.words.start, attended.stride),
        Weights(
            _identity(tile.inputs, arch.width),
            natural(len(tile.inputs), arch.depth),
            natural(arch.width, arch.width),
        ),
        Rows.block(rows),
        {"kind": isa.Drain.OUTPUT},
        (),
        columns=arch.width,
    )


def _bring(
    writer: StepWriter, layer: IntAttention, tiles: list[_Tile], rows: range, beside: _Beside
) -> RowBuffer:
    """Bring a block of the stream back to be added to, and all tiles of its rows."""
    writer.fetch(rows)
    arch, wide = writer.arch, layer.wide_attended
    stride = len(tiles) * writer.words(arch.width)
    planes = 3 if wide else 1
    name = f"{writer.label}.attended{rows.start or ''}"
    place = RowBuffer(Buffer(name, planes * len(rows) * stride), rows, stride)
    for tile in tiles:
        for part in beside.parts(rows):
            source = beside.load(tile, part)
            writer.emit(
                isa.Opcode.NORM,
                (reads_stream(beside.rows(source)), *place.writes(part)),
                plain=1,
                wide=int(wide),
                rows=len(part),
                words=beside.words,
                channels=arch.width,
                source_base=source.start,
                source_stride=beside.words,
                base=place.at(part.start, tile.number * writer.words(arch.width)),
                stride=stride,
                plane_stride=place.plane if wide else 0,
                **_unchanged(arch.width, wide),
            )
    return place


def _unchanged(channels: int, wide: bool) -> dict[str, int]:
    """NORM's scale that gives plain int8 rows, or with ``wide`` int16 rows, as they are
    (docs/numerics.md): exact for powers of two alone."""
    assert channels.bit_count() == 1
    narrower = 0 if wide else 8
    return {"multiplier": 1 << 15, "shift": 15 - narrower + channels.bit_length() - 1}


class _Beside:
    """The rows of the residual memory that are no place of the stream's: tiles of rows lie there
    one behind the other, and begin anew where no more fit."""

    def __init__(self, writer: StepWriter) -> None:
        self._writer, self._spill = writer, _spill(writer)
        self._begin = self._spill.beside.start * self._spill.words
        self._end = self._spill.beside.stop * self._spill.words
        self._next = self._begin
        self.words = layout.words(writer.arch.width, writer.arch.lanes)
        if self._end - self._begin < self.words:
            arch = writer.arch
            raise UserError(
                f"the model does not fit target {arch.name}: the residual scratchpad has"
                f" {arch.residual_bytes} bytes, no room for {2 * arch.width} bytes beside blocks of"
                " its residual stream: use a target with more residual_bytes"
            )

    def parts(self, rows: range) -> Iterator[range]:
        """Rows that it holds at a time."""
        most = (self._end - self._begin) // self.words
        for first in range(rows.start, rows.stop, most):
            yield range(first, min(first + most, rows.stop))

    def rows(self, words: range) -> range:
        """Rows of the residual memory that some words of it lie in."""
        per_row = self._spill.words
        return range(words.start // per_row, layout.words(words.stop, per_row))

    def load(self, tile: _Tile, rows: range) -> range:
        """Write the LOAD of a tile's rows; returns the words where they are."""
        count = len(rows) * self.words
        if self._next + count > self._end:
            self._next = self._begin
        words = range(self._next, self._next + count)
        self._next += count
        self._writer.emit(
            isa.Opcode.LOAD,
            (
                reads_scratch(tile.rows(self._writer, rows)),
                writes_stream(self.rows(words)),
            ),
            window=isa.Window.OUTPUT,
            space=isa.Space.RESIDUAL,
            offset=tile.byte(self._writer, rows.start),
            words=count,
            base=words.start,
        )
        return words
