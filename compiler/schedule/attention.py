"""Attention: projections, scores, softmax and values, one head and row block after the other."""

from __future__ import annotations

from moesaic.compiler.schedule.steps import (
    RESIDUAL_READ,
    RESIDUAL_WRITE,
    Address,
    Buffer,
    Weights,
    reads,
    writes,
)
from moesaic.compiler.schedule.writer import Rows, Source, StepWriter, natural, pad_to, per_head
from moesaic.spec import isa, layout
from moesaic.spec.intgraph import IntAttention


def lower_attention(writer: StepWriter, layer: IntAttention, rows: Buffer) -> None:
    """Write the steps of one attention layer on normalised rows."""
    arch, tokens = writer.arch, writer.graph.tokens
    normal = Source.normalised(rows, layer.wide)
    projected = {}
    for name, linear, dim, side, wide in (
        ("key", layer.key, layer.head_dim, 1, False),
        ("query", layer.query, layer.head_dim, 0, layer.wide_query),
        ("value", layer.value, layer.value_dim, 1, False),
    ):
        indices = per_head(layer.heads, dim, arch.depth)
        words = writer.words(len(indices))
        buffer = writer.buffer(name, tokens, len(indices), side, 2 if wide else 1)
        projected[name] = buffer
        writer.linear(
            normal,
            Weights(linear, natural(linear.inputs, arch.depth), pad_to(indices, arch.width)),
            Rows(tokens),
            {
                "kind": isa.Drain.INT8,
                "base": Address(buffer),
                "stride": words,
                "wide": int(wide),
                "plane_stride": tokens * words if wide else 0,
            },
            writes(buffer),
            columns=len(indices),
        )
    value_columns = per_head(layer.heads, layer.value_dim, arch.depth)
    planes = 2 if layer.wide_attended else 1
    attended = writer.buffer("attended", tokens, len(value_columns), planes=planes)
    _lower_heads(writer, layer, projected, attended)
    mixed = Source(attended)
    if layer.wide_attended:
        plane = tokens * writer.words(len(value_columns))
        mixed = Source(attended, isa.Streamed.SIGNED16, plane=plane)
    writer.linear(
        mixed,
        Weights(layer.output, value_columns, natural(layer.output.outputs, arch.width)),
        Rows(tokens),
        writer.to_residual(),
        (RESIDUAL_READ, RESIDUAL_WRITE),
        columns=writer.residual_words * arch.lanes,
    )


def _lower_heads(
    writer: StepWriter, layer: IntAttention, projected: dict[str, Buffer], attended: Buffer
) -> None:
    """Scores of one block run on the array while the softmax of the one before drains."""
    tokens = writer.graph.tokens
    key_tiles = layout.words(tokens, writer.arch.width)
    wanted = layout.words(tokens, writer.schedule.query_blocks)
    block = min(wanted, writer.arch.accumulator_rows // key_tiles)
    blocks = [
        (head, first, min(block, tokens - first))
        for head in range(layer.heads)
        for first in range(0, tokens, block)
    ]
    probabilities: list[Buffer] = []
    for number, (head, first, rows) in enumerate(blocks):
        probabilities.append(_lower_scores(writer, layer, projected, head, first, rows))
        if number:
            _lower_mix(writer, layer, projected, attended, probabilities[-2], *blocks[number - 1])
    _lower_mix(writer, layer, projected, attended, probabilities[-1], *blocks[-1])


def _lower_scores(
    writer: StepWriter,
    layer: IntAttention,
    projected: dict[str, Buffer],
    head: int,
    first: int,
    rows: int,
) -> Buffer:
    """MATMUL of queries and keys of one head and row block, and its softmax."""
    tokens, words = writer.graph.tokens, writer.words(layer.head_dim)
    stride = words * layer.heads
    key_tiles = layout.words(tokens, writer.arch.width)
    probability = writer.buffer(f"probability{head}.{first}", rows, tokens)
    writer.emit(
        isa.Opcode.MATMUL,
        reads(projected["query"], projected["key"]),
        stationary=isa.Stationary.COLUMNS,
        streamed=isa.Streamed.SIGNED16 if layer.wide_query else isa.Streamed.SIGNED8,
        track_maximum=1,
        rows=rows,
        k_tiles=words,
        n_tiles=key_tiles,
        groups=1,
        stream_base=Address(projected["query"], first * stride + head * words),
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
        rows=rows,
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
    first: int,
    rows: int,
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
        rows=rows,
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
        writes(attended),
        kind=isa.Drain.ATTENTION,
        rows=rows,
        n_tiles=1,
        groups=tiles,
        columns=columns,
        base=Address(attended, first * stride + head * words),
        stride=stride,
        wide=int(layer.wide_attended),
        plane_stride=tokens * stride if layer.wide_attended else 0,
        multiplier=layer.scale.multiplier,
        shift=layer.scale.shift,
    )
