"""Recognising what the accelerator does behind the last layer: LayerNorm and one linear layer,
either of which may be missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesaic.compiler import ir
from moesaic.compiler.frontend.given import find_output_step
from moesaic.compiler.frontend.read import (
    LinearReading,
    State,
    per_column,
    read_linear,
    read_normalised,
    read_plain,
    share_norm,
)
from moesaic.compiler.frontend.views import (
    Arena,
    Norm,
    NotRecognised,
    Product,
    RealArray,
    RowSum,
    Source,
    Sum,
    View,
)
from moesaic.compiler.ir import IndexArray


def read_head(arena: Arena, output: View) -> tuple[ir.Head, State]:
    """Read a head; returns it, of no place yet, and the residual stream that it reads.

    Normalised tokens are a head, too: the linear layer is then diagonal. Its rows have one weight
    each, gamma, which int8 with a scale per row holds exactly. So are the tokens of the stream
    itself, or a linear layer of them.
    """
    flat = output.reshape(-1)
    source = arena.source_of(flat)
    if isinstance(source, Norm):
        width = source.rows.shape[1]
    elif isinstance(source, Sum):
        width = _channels(arena, source)
    elif isinstance(source, Product):
        width = source.weight.shape[0]
    else:
        raise NotRecognised(
            f"the output must be that of a linear layer, perhaps laid out anew, but {source.node} "
            "makes it: cut the graph behind the last linear layer and compute the rest on the host"
        )
    rows, columns, scale, offset = _affine_columns(flat, source, width)
    used = np.unique(rows)
    everything = arena.view(source, (source.size // width, width))[used].affine(scale, offset)
    if isinstance(source, Product):
        linear = read_linear(arena, everything)
        before = _before(arena, source, linear.inputs)
    else:
        identity = np.eye(width)
        linear = LinearReading(
            everything.plain, identity * scale[:, None], offset, source.name, source.node
        )
        before = source
    linear.given = replace(linear.given, target=find_output_step(arena, flat))
    if isinstance(before, Norm):
        state = _last_state(arena, before)
        reading = read_normalised(arena, state, linear)
    else:
        channels = _channels(arena, before)
        state = State(arena.view(before, (before.size // channels, channels)))
        reading = read_plain(state, before, linear)
    tokens = np.zeros(used.max() + 1, np.int64)
    tokens[used] = reading.tokens
    first, last = int(reading.tokens.min()), int(reading.tokens.max())
    head_norm, (head_linear,) = share_norm([reading])
    head = ir.Head(
        norm=head_norm,
        linear=head_linear,
        first_row=first,
        rows=last - first + 1,
        permutation=(tokens[rows] - first) * width + columns,
        name=source.name,
        tensor="",
        shape=(),
        depth=-1,
    )
    return head, state


def _affine_columns(
    flat: View, source: Source, width: int
) -> tuple[IndexArray, IndexArray, RealArray, RealArray]:
    """Return row and column of each element, and the scale and offset of each column."""
    element = flat.ids - source.start
    rows, columns = element // width, element % width
    scale, offset = np.ones(width), np.zeros(width)
    scale[columns], offset[columns] = flat.scale, flat.offset
    if (scale[columns] != flat.scale).any() or (offset[columns] != flat.offset).any():
        raise NotRecognised(
            f"the output is scaled or shifted by position behind {source.node}: do it on the host"
        )
    return rows, columns, scale, offset


def _channels(arena: Arena, stream: Sum) -> int:
    """Channels of a residual stream: those of the last LayerNorm in front of it."""
    before = [s for s in arena.sources if isinstance(s, Norm) and s.start < stream.start]
    if not before or stream.size % before[-1].rows.shape[1]:
        raise NotRecognised(f"{stream.node} adds no layer behind a LayerNorm to a residual stream")
    return before[-1].rows.shape[1]


def _before(arena: Arena, head: Product, inputs: View) -> Norm | Sum:
    """What the head's linear layer reads."""
    sources = arena.sources_of(inputs)
    if len(sources) == 1 and isinstance(sources[0], (Norm, Sum)):
        return sources[0]
    names = " and ".join(source.node for source in sources[:2]) or "constants"
    what = "pooled tokens" if any(isinstance(s, RowSum) for s in sources) else names
    raise NotRecognised(
        f"the head's linear layer {head.node} must read tokens of the residual stream, or a"
        f" LayerNorm of them, but it reads {what}: pool on the host"
    )


def _last_state(arena: Arena, norm: Norm) -> State:
    """Return the whole residual stream that a norm reads, perhaps without some tokens."""
    sources = arena.sources_of(norm.rows)
    channels = norm.rows.shape[1]
    if len(sources) == 1 and isinstance(sources[0], (Sum, Norm)):
        stream = arena.view(sources[0], (sources[0].size // channels, channels))
        # A constant that is added behind the last layer belongs to that layer's bias.
        offset = per_column(norm.rows.offset, "offset")
        gamma = per_column(norm.rows.scale, "scale") if isinstance(sources[0], Norm) else 1.0
        return State(stream.affine(gamma, offset))
    return State(norm.rows)
