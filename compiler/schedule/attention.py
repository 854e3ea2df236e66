"""Attention: projections, scores, softmax and values, one head and row block after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moesaic.compiler.schedule.steps import (
    ANGLES_READ,
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
from moesaic.spec.constants import angle_key, angle_places
from moesaic.spec.formats import ANGLE_FRACTION_BITS
from moesaic.spec.intgraph import IntAttention, IntLinear, IntRotary


def lower_attention(writer: StepWriter, layer: IntAttention, rows: Normal) -> None:
    """Write the steps of one attention layer on normalised rows."""
    arch, tokens = writer.arch, writer.graph.tokens
    projections = [
        _Projection.of(writer, layer, *part)
        for part in (
            ("key", layer.key, 1, False),
            ("query", layer.query, 0, layer.wide_query),
            ("value", layer.value, 1, False),
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
    ``wide``, two planes; every head begins with a word. With ``rotary`` they are rotated by the
    angles that begin at residual word ``angles``."""

    name: str
    linear: IntLinear
    heads: int
    indices: tuple[int, ...]
    buffer: Buffer
    wide: bool
    rotary: bool = False
    angles: int = 0

    @staticmethod
    def of(
        writer: StepWriter, layer: IntAttention, name: str, linear: IntLinear, side: int, wide: bool
    ) -> _Projection:
        rotary, angles = layer.rotary if name != "value" else None, 0
        if rotary is not None:
            indices = _rotated_columns(writer, layer, rotary)
            angles = angle_places(writer.graph, writer.arch)[angle_key(rotary)]
        else:
            dim = layer.value_dim if name == "value" else layer.head_dim
            indices = per_head(layer.heads, dim, writer.arch.depth)
        planes = 2 if wide else 1
        buffer = writer.buffer(name, writer.graph.tokens, len(indices), side, planes)
        heads, turned = layer.heads, rotary is not None
        return _Projection(name, linear, heads, indices, buffer, wide, turned, angles)

    def lower(self, writer: StepWriter, normal: Source, block: range) -> None:
        """Write the product of a block of rows."""
        if not self.rotary:
            self._product(writer, normal, block, range(len(self.indices)), {})
            return
        # A bank must hold both chunks of a pair.
        arch, head = writer.arch, len(self.indices) // self.heads
        most = arch.accumulator_rows // _pair_tiles(writer)
        for start in range(block.start, block.stop, most):
            rows = range(start, min(start + most, block.stop))
            for columns in _pieces(writer, head, self.heads, len(rows)):
                first = rows.start * (head // arch.lanes) + columns.start % head // arch.lanes
                turn = {
                    "rotary": 1,
                    "shift": ANGLE_FRACTION_BITS,
                    "angles": self.angles + first,
                    "angle_words": head // arch.lanes,
                }
                self._product(writer, normal, rows, columns, turn)

    def _product(
        self, writer: StepWriter, normal: Source, rows: range, columns: range, turn: dict[str, int]
    ) -> None:
        arch, words = writer.arch, writer.words(len(self.indices))
        inputs = natural(self.linear.inputs, arch.depth)
        outputs = self.indices[columns.start : columns.stop]
        writer.linear(
            normal,
            Weights(self.linear, inputs, pad_to(outputs, arch.width)),
            Rows.block(rows),
            {
                "kind": isa.Drain.INT8,
                "base": Address(self.buffer, rows.start * words + columns.start // arch.depth),
                "stride": words,
                "wide": int(self.wide),
                "plane_stride": writer.graph.tokens * words if self.wide else 0,
                **turn,
            },
            (*writes(self.buffer, rows=rows), *([ANGLES_READ] if turn else [])),
            columns=len(outputs),
            one_group=bool(turn),
        )


def _rotated_columns(writer: StepWriter, layer: IntAttention, rotary: IntRotary) -> tuple[int, ...]:
    """Outputs of the query or the key in the order in which pairs of chunks are rotated."""
    one = layout.rotary_columns(writer.arch, rotary.pairs)
    return tuple(
        head * layer.head_dim + channel if channel >= 0 else -1
        for head in range(layer.heads)
        for channel in one
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


def _score_words(writer: StepWriter, layer: IntAttention) -> int:
    """Activation words of a head's query or key."""
    if layer.rotary is None:
        return writer.words(layer.head_dim)
    return writer.words(len(layout.rotary_columns(writer.arch, layer.rotary.pairs)))


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
    tokens, words = writer.graph.tokens, _score_words(writer, layer)
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
