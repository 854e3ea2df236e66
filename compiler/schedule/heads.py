"""Heads of attention for some of the queries: scores, softmax, and the mixture of values; and the
output projection of what they give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from moesaic.compiler.schedule.head_start import add_to_stream
from moesaic.compiler.schedule.operands import RowBuffer, Rows, Source, per_head
from moesaic.compiler.schedule.steps import (
    Address,
    Buffer,
    reads,
    writes,
)
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec import isa, layout
from moesaic.spec.intgraph import IntAttention


def query_parts(writer: StepWriter, block: range) -> list[range]:
    """Parts of a block of queries: as the schedule says, or more, because an accumulator bank holds
    the scores of one, of rows of one frame."""
    arch, tokens = writer.arch, writer.graph.tokens
    wanted = layout.words(tokens, writer.schedule.query_blocks)
    most = min(wanted, arch.accumulator_rows // layout.words(tokens, arch.width))
    found = []
    for frame in writer.frames:
        stop = min(block.stop, frame.stop)
        firsts = range(max(block.start, frame.start), stop, most)
        found += [range(first, min(first + most, stop)) for first in firsts]
    return found


@dataclass(frozen=True)
class Head:
    """Head ``number`` for the queries ``rows``: where the keys and values of the heads ``group``
    and, of these rows, their queries and results lie."""

    layer: IntAttention
    group: range
    number: int
    rows: range
    query: RowBuffer
    key: RowBuffer
    value: RowBuffer
    attended: RowBuffer

    def _frame(self, writer: StepWriter) -> range:
        """Rows of the frame that these queries are of: its keys and values."""
        return next(frame for frame in writer.frames if self.rows.start in frame)

    def score(self, writer: StepWriter) -> Buffer:
        """Write the MATMUL of queries and keys, and its softmax; returns where that is."""
        layer, rows, tokens = self.layer, self.rows, writer.graph.tokens
        words, place = self.query.stride // len(self.group), self.number - self.group.start
        key_tiles = layout.words(tokens, writer.arch.width)
        name = f"probability{self.number}.{rows.start}"
        probability = writer.buffer(name, len(rows), tokens)
        writer.emit(
            isa.Opcode.MATMUL,
            (*self.query.reads(rows), *self.key.reads(self._frame(writer))),
            stationary=isa.Stationary.COLUMNS,
            streamed=isa.Streamed.SIGNED16 if layer.wide_query else isa.Streamed.SIGNED8,
            track_maximum=1,
            rows=len(rows),
            k_tiles=words,
            n_tiles=key_tiles,
            groups=1,
            stream_base=self.query.at(rows.start, place * words),
            stream_stride=self.query.stride,
            plane_stride=self.query.plane if layer.wide_query else 0,
            last_wide=words - 1 if layer.wide_query else 0,
            stationary_base=self.key.at(self._frame(writer).start, place * words),
            stationary_stride=self.key.stride,
            stationary_rows=tokens,
        )
        writer.emit(
            isa.Opcode.DRAIN,
            writes(probability),
            kind=isa.Drain.SOFTMAX,
            rows=len(rows),
            n_tiles=key_tiles,
            groups=1,
            columns=tokens,
            base=Address(probability),
            stride=writer.words(tokens),
            multiplier=layer.softmax.multiplier,
            shift=layer.softmax.shift,
        )
        return probability

    def mix(self, writer: StepWriter, probability: Buffer) -> None:
        """Write the MATMUL of probabilities and values, scaled by 1/sum."""
        layer, rows, tokens = self.layer, self.rows, writer.graph.tokens
        words, place = writer.words(layer.value_dim), self.number - self.group.start
        columns = words * writer.arch.depth
        tiles = layout.words(columns, writer.arch.width)
        writer.emit(
            isa.Opcode.MATMUL,
            (*reads(probability), *self.value.reads(self._frame(writer))),
            stationary=isa.Stationary.ROWS,
            streamed=isa.Streamed.UNSIGNED8,
            rows=len(rows),
            k_tiles=writer.words(tokens),
            n_tiles=1,
            groups=tiles,
            stream_base=Address(probability),
            stream_stride=writer.words(tokens),
            stationary_base=self.value.at(self._frame(writer).start, place * words),
            stationary_stride=self.value.stride,
            stationary_rows=tokens,
        )
        writer.emit(
            isa.Opcode.DRAIN,
            self.attended.writes(rows),
            kind=isa.Drain.ATTENTION,
            rows=len(rows),
            n_tiles=1,
            groups=tiles,
            columns=columns,
            base=self.attended.at(rows.start, place * words),
            stride=self.attended.stride,
            wide=int(layer.wide_attended),
            plane_stride=self.attended.plane if layer.wide_attended else 0,
            multiplier=layer.scale.multiplier,
            shift=layer.scale.shift,
        )


def scored(writer: StepWriter, heads: Iterable[Head]) -> Iterator[Head]:
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


def attended_columns(writer: StepWriter, layer: IntAttention, heads: range) -> tuple[int, ...]:
    """Inputs of the output projection that some heads give, in the order in which they lie."""
    return per_head(heads, layer.value_dim, writer.arch.depth)


def attended_rows(writer: StepWriter, layer: IntAttention, heads: range, rows: range) -> RowBuffer:
    """Room for the results of some heads for some rows."""
    columns = len(attended_columns(writer, layer, heads))
    planes = 2 if layer.wide_attended else 1
    name = f"attended{rows.start or ''}"
    buffer = writer.buffer(name, len(rows), columns, planes=planes)
    return RowBuffer(buffer, rows, writer.words(columns))


def add_attended(
    writer: StepWriter,
    layer: IntAttention,
    source: Source,
    columns: tuple[int, ...],
    rows: range,
    place: range,
) -> None:
    """Write the output projection of some rows of ``source``, whose columns are these inputs of it:
    it adds to the stream."""
    add_to_stream(writer, source, layer.output, columns, Rows.block(rows), place)
