"""Attention: projections, then heads, then the sums of the stream.

All rows have their queries at a time, or, where rows are normalised as they are read, each part of
the queries comes and goes: only keys and values are of all tokens then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from moesaic.compiler.schedule.heads import Head, query_parts
from moesaic.compiler.schedule.operands import (
    Normal,
    RowBuffer,
    Rows,
    Source,
    natural,
    per_head,
)
from moesaic.compiler.schedule.projections import Projection
from moesaic.compiler.schedule.steps import Buffer, Weights, updates_stream
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec import isa
from moesaic.spec.intgraph import IntAttention


def lower_attention(writer: StepWriter, layer: IntAttention, rows: Normal) -> None:
    """Write the steps of one attention layer on normalised rows."""
    projections = _Projections(
        Projection.of(writer, layer, "key", layer.key, 1, False),
        Projection.of(writer, layer, "query", layer.query, 0, layer.wide_query),
        Projection.of(writer, layer, "value", layer.value, 1, False),
    )
    lower = _lower_together if rows.place else _lower_in_parts
    lower(writer, layer, rows, projections)


class _Projections(NamedTuple):
    key: Projection
    query: Projection
    value: Projection


def _lower_together(
    writer: StepWriter, layer: IntAttention, rows: Normal, projections: _Projections
) -> None:
    """Scores of one part of the queries run on the array while the softmax of the one before
    drains. All heads of a block come before the next one's: its output projection can begin."""
    key, query, value = projections
    every, source = range(writer.graph.tokens), rows.source(layer.wide)
    keys, queries, values = (part.place(writer, every) for part in projections)
    blocks = writer.blocks(len(every))
    for block in blocks:
        key.lower(writer, source, block, keys)
        query.lower(writer, source, block, queries)
        value.lower(writer, source, block, values)
    attended = _attended(writer, layer, every)
    heads = [
        Head(layer, number, part, queries, keys, values, attended)
        for block in blocks
        for number in range(layer.heads)
        for part in query_parts(writer, block)
    ]
    for _ in _scored(writer, heads):
        pass
    for block in blocks:
        writer.fetch(block)
        _add(writer, layer, attended, block, writer.resident(block))
        writer.complete(block.stop)


def _lower_in_parts(
    writer: StepWriter, layer: IntAttention, rows: Normal, projections: _Projections
) -> None:
    """Keys and values of all rows; then a part of the queries behind the other. The rows of the
    next block, or of the next part, are normalised while the array works on this one."""
    key, query, value = projections
    every = range(writer.graph.tokens)
    keys, values = key.place(writer, every), value.place(writer, every)
    blocks = writer.blocks(len(every))

    def read(block: range) -> Normal:
        writer.fetch(block, update=False)
        return writer.normalise(rows, block)

    ahead = read(blocks[0])
    for number, block in enumerate(blocks):
        source = ahead.source(layer.wide)
        if number + 1 < len(blocks):
            ahead = read(blocks[number + 1])
        key.lower(writer, source, block, keys)
        value.lower(writer, source, block, values)

    def begin(block: range, part: range) -> Normal:
        if part.start == block.start:
            writer.fetch(block)
        return writer.normalise(rows, part)

    def heads() -> Iterator[Head]:
        parts = [(block, part) for block in blocks for part in query_parts(writer, block)]
        ahead = begin(*parts[0])
        for number, (_, part) in enumerate(parts):
            queries, attended = query.place(writer, part), _attended(writer, layer, part)
            query.lower(writer, ahead.source(layer.wide), part, queries)
            for head in range(layer.heads):
                yield Head(layer, head, part, queries, keys, values, attended)
                if not head and number + 1 < len(parts):
                    ahead = begin(*parts[number + 1])

    for head in _scored(writer, heads()):
        if head.number == layer.heads - 1:
            place = writer.resident(head.rows)
            _add(writer, layer, head.attended, head.rows, place)
            writer.complete(head.rows.stop)


def _scored(writer: StepWriter, heads: Iterable[Head]) -> Iterator[Head]:
    """Write the scores of one head, then the mixture of the one before, which is yielded then."""
    before: tuple[Head, Buffer] | None = None
    for head in heads:
        probability = head.score(writer)
        if before:
            before[0].mix(writer, before[1])
            yield before[0]
        before = head, probability
    assert before
    before[0].mix(writer, before[1])
    yield before[0]


def _value_columns(writer: StepWriter, layer: IntAttention) -> tuple[int, ...]:
    return per_head(layer.heads, layer.value_dim, writer.arch.depth)


def _attended(writer: StepWriter, layer: IntAttention, rows: range) -> RowBuffer:
    """Room for the results of all heads for some rows."""
    columns = len(_value_columns(writer, layer))
    planes = 2 if layer.wide_attended else 1
    name = f"attended{rows.start or ''}"
    buffer = writer.buffer(name, len(rows), columns, planes=planes)
    return RowBuffer(buffer, rows, writer.words(columns))


def _add(
    writer: StepWriter, layer: IntAttention, attended: RowBuffer, rows: range, place: range
) -> None:
    """Write the output projection of some rows, which adds to the stream."""
    source = Source(attended.buffer, row=attended.rows.start)
    if layer.wide_attended:
        source = replace(source, streamed=isa.Streamed.SIGNED16, plane=attended.plane)
    outputs = natural(layer.output.outputs, writer.arch.width)
    writer.linear(
        source,
        Weights(layer.output, _value_columns(writer, layer), outputs),
        Rows.block(rows),
        writer.to_residual(place.start),
        updates_stream(place),
        columns=writer.residual_words * writer.arch.lanes,
    )
