"""Attention: projections, scores, softmax and values, one head and row block after the other."""

from __future__ import annotations

from dataclasses import dataclass

from moesaic.compiler.schedule.steps import (
    Address,
    Buffer,
    Weights,
    reads,
    updates_stream,
    writes,
)
from moesaic.compiler.schedule.writer import (
    Normal,
    Rows,
    Source,
    StepWriter,
    natural,
    pad_to,
    per_head,
)
from moesaic.spec import isa, layout
from moesaic.spec.intgraph import IntAttention, IntLinear


def lower_attention(writer: StepWriter, layer: IntAttention, rows: Normal) -> None:
    """Write the steps of one attention layer on normalised rows."""
    arch, tokens = writer.arch, writer.graph.tokens
    projections = [
        _Projection.of(writer, layer, name, linear, dim, side, wide)
        for name, linear, dim, side, wide in (
            ("key", layer.key, layer.head_dim, 1, False),
            ("query", layer.query, layer.head_dim, 0, layer.wide_query),
            ("value", layer.value, layer.value_dim, 1, False),
        )
    ]
    for block in writer.blocks(tokens):
        for projection in projections:
            projection.lower(writer, rows.source(layer.wide), block)
    value_columns = per_head(layer.heads, layer.value_dim, arch.depth)
    planes = 2 if layer.wide_attended else 1
    attended = writer.buffer("attended", tokens, len(value_columns), planes=planes)
    _lower_heads(writer, layer, {p.name: p.buffer for p in projections}, attended)
    mixed = Source(attended)
    if layer.wide_attended:
        plane = tokens * writer.words(len(value_columns))
        mixed = Source(attended, isa.Streamed.SIGNED16, plane=plane)
    for block in writer.blocks(tokens):
        place = writer.resident(block)
        writer.fetch(block)
        writer.linear(
            mixed,
            Weights(layer.output, value_columns, natural(layer.output.outputs, arch.width)),
            Rows.block(block),
            writer.to_residual(place.start),
            updates_stream(place),
            columns=writer.residual_words * arch.lanes,
        )
        writer.complete(block.stop)


@dataclass(frozen=True)
class _Projection:
    """Keys, queries or values: a linear layer and the place of its results, int8 or, with
    ``wide``, two planes; every head begins with a word."""

    name: str
    linear: IntLinear
    indices: tuple[int, ...]
    buffer: Buffer
    wide: bool

    @staticmethod
    def of(
        writer: StepWriter,
        layer: IntAttention,
        name: str,
        linear: IntLinear,
        dim: int,
        side: int,
        wide: bool,
    ) -> _Projection:
        indices = per_head(layer.heads, dim, writer.arch.depth)
        planes = 2 if wide else 1
        buffer = writer.buffer(name, writer.graph.tokens, len(indices), side, planes)
        return _Projection(name, linear, indices, buffer, wide)

    def lower(self, writer: StepWriter, normal: Source, block: range) -> None:
        """Write the product of a block of rows."""
        arch, words = writer.arch, writer.words(len(self.indices))
        inputs = natural(self.linear.inputs, arch.depth)
        writer.linear(
            normal,
            Weights(self.linear, inputs, pad_to(self.indices, arch.width)),
            Rows.block(block),
            {
                "kind": isa.Drain.INT8,
                "base": Address(self.buffer, block.start * words),
                "stride": words,
                "wide": int(self.wide),
                "plane_stride": writer.graph.tokens * words if self.wide else 0,
            },
            writes(self.buffer, rows=block),
            columns=len(self.indices),
        )


def _lower_heads(
    writer: StepWriter, layer: IntAttention, projected: dict[str, Buffer], attended: Buffer
) -> None:
    """Scores of one part of the queries run on the array while the softmax of the one before
    drains. All heads of a block come before the next one's: its output projection can begin."""
    tokens = writer.graph.tokens
    key_tiles = layout.words(tokens, writer.arch.width)
    wanted = layout.words(tokens, writer.schedule.query_blocks)
    most = min(wanted, writer.arch.accumulator_rows // key_tiles)
    parts = [
        (head, range(first, min(first + most, block.stop)))
        for block in writer.blocks(tokens)
        for head in range(layer.heads)
        for first in range(block.start, block.stop, most)
    ]
    probabilities: list[Buffer] = []
    for number, part in enumerate(parts):
        probabilities.append(_lower_scores(writer, layer, projected, *part))
        if number:
            mixed = probabilities[-2], *parts[number - 1]
            _lower_mix(writer, layer, projected, attended, *mixed)
    _lower_mix(writer, layer, projected, attended, probabilities[-1], *parts[-1])


def _lower_scores(
    writer: StepWriter,
    layer: IntAttention,
    projected: dict[str, Buffer],
    head: int,
    rows: range,
) -> Buffer:
    """MATMUL of queries and keys of one head and row block, and its softmax."""
    tokens, words = writer.graph.tokens, writer.words(layer.head_dim)
    stride = words * layer.heads
    key_tiles = layout.words(tokens, writer.arch.width)
    probability = writer.buffer(f"probability{head}.{rows.start}", len(rows), tokens)
    writer.emit(
        isa.Opcode.MATMUL,
        (*reads(projected["query"], rows=rows), *reads(projected["key"])),
        stationary=isa.Stationary.COLUMNS,
        streamed=isa.Streamed.SIGNED16 if layer.wide_query else isa.Streamed.SIGNED8,
        track_maximum=1,
        rows=len(rows),
        k_tiles=words,
        n_tiles=key_tiles,
        groups=1,
        stream_base=Address(projected["query"], rows.start * stride + head * words),
        stream_stride=stride,
        plane_stride=tokens * stride if layer.wide_query else 0,
        last_wide=words - 1 if layer.wide_query else 0,
        stationary_base=Address(projected["key"], head * words),
        stationary_stride=stride,
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


def _lower_mix(
    writer: StepWriter,
    layer: IntAttention,
    projected: dict[str, Buffer],
    attended: Buffer,
    probability: Buffer,
    head: int,
    rows: range,
) -> None:
    """MATMUL of probabilities and values of one head and row block, scaled by 1/sum."""
    arch, tokens = writer.arch, writer.graph.tokens
    words = writer.words(layer.value_dim)
    stride = words * layer.heads
    columns = words * arch.depth
    tiles = layout.words(columns, arch.width)
    writer.emit(
        isa.Opcode.MATMUL,
        reads(probability, projected["value"]),
        stationary=isa.Stationary.ROWS,
        streamed=isa.Streamed.UNSIGNED8,
        rows=len(rows),
        k_tiles=writer.words(tokens),
        n_tiles=1,
        groups=tiles,
        stream_base=Address(probability),
        stream_stride=writer.words(tokens),
        stationary_base=Address(projected["value"], head * words),
        stationary_stride=stride,
        stationary_rows=tokens,
    )
    writer.emit(
        isa.Opcode.DRAIN,
        writes(attended, rows=rows),
        kind=isa.Drain.ATTENTION,
        rows=len(rows),
        n_tiles=1,
        groups=tiles,
        columns=columns,
        base=Address(attended, rows.start * stride + head * words),
        stride=stride,
        wide=int(layer.wide_attended),
        plane_stride=tokens * stride if layer.wide_attended else 0,
        multiplier=layer.scale.multiplier,
        shift=layer.scale.shift,
    )
