"""Attention: projections, then heads, then the sums of the stream.

All rows have their queries at a time, or, where rows are normalised as they are read, each part of
the queries comes and goes: only keys and values are of all tokens then.
"""

from __future__ import annotations

from collections.abc import Iterator

from moesaic.compiler.schedule.head_groups import lower_in_groups
from moesaic.compiler.schedule.heads import (
    Head,
    add_attended,
    attended_columns,
    attended_rows,
    query_parts,
    scored,
)
from moesaic.compiler.schedule.operands import Normal, RowBuffer, Source
from moesaic.compiler.schedule.projections import Projections
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec.intgraph import IntAttention


def lower_attention(writer: StepWriter, layer: IntAttention, rows: Normal) -> None:
    """Write the steps of one attention layer on normalised rows."""
    groups = writer.head_groups(layer.heads)
    if len(groups) > 1:
        lower_in_groups(writer, layer, rows, groups)
    elif rows.place:
        _lower_together(writer, layer, rows)
    else:
        _lower_in_parts(writer, layer, rows)


def _lower_together(writer: StepWriter, layer: IntAttention, rows: Normal) -> None:
    """Scores of one part of the queries run on the array while the softmax of the one before
    drains. All heads of a block come before the next one's: its output projection can begin."""
    heads = range(layer.heads)
    projections = Projections.of(writer, layer, heads)
    every, source = writer.rows, rows.source(layer.wide)
    key, query, value = projections
    keys, queries, values = (part.place(writer, every) for part in projections)
    blocks = writer.blocks(every)
    for block in blocks:
        if layer.parallel:  # others have read the rows before
            key.lower(writer, source, block, keys)
        else:
            key.begin(writer, rows, layer.wide, block, keys)
        query.lower(writer, source, block, queries)
        value.lower(writer, source, block, values)
    attended = attended_rows(writer, layer, heads, every)
    every_head = [
        Head(layer, heads, number, part, queries, keys, values, attended)
        for block in blocks
        for number in heads
        for part in query_parts(writer, block)
    ]
    for _ in scored(writer, every_head):
        pass
    for block in blocks:
        writer.fetch(block)
        _add(writer, layer, attended, block, writer.resident(block))
        writer.complete(block.stop)


def _lower_in_parts(writer: StepWriter, layer: IntAttention, rows: Normal) -> None:
    """Keys and values of all rows; then a part of the queries behind the other. The rows of the
    next part are normalised while the array works on this one."""
    projections = Projections.of(writer, layer, range(layer.heads))
    keys, values = projections.lower_keys(writer, rows, layer.wide)
    blocks = writer.blocks(writer.rows)

    def begin(block: range, part: range) -> Normal:
        if part.start == block.start:
            writer.fetch(block)
        return writer.normalise(rows, part)

    def heads() -> Iterator[Head]:
        parts = [(block, part) for block in blocks for part in query_parts(writer, block)]
        every, query = range(layer.heads), projections.query
        ahead = begin(*parts[0])
        for number, (_, part) in enumerate(parts):
            queries = query.place(writer, part)
            attended = attended_rows(writer, layer, every, part)
            query.lower(writer, ahead.source(layer.wide), part, queries)
            for head in every:
                yield Head(layer, every, head, part, queries, keys, values, attended)
                if not head and number + 1 < len(parts):
                    ahead = begin(*parts[number + 1])

    for head in scored(writer, heads()):
        if head.number == layer.heads - 1:
            place = writer.resident(head.rows)
            _add(writer, layer, head.attended, head.rows, place)
            writer.complete(head.rows.stop)


def _add(
    writer: StepWriter, layer: IntAttention, attended: RowBuffer, rows: range, place: range
) -> None:
    """Write the output projection of some rows, which adds to the stream."""
    source = Source.attended(attended, layer.wide_attended)
    columns = attended_columns(writer, layer, range(layer.heads))
    add_attended(writer, layer, source, columns, rows, place)
