"""Lowering: an integer graph becomes steps in program order."""

from __future__ import annotations

from itertools import takewhile
from typing import assert_never

from moesaic.compiler.schedule.attention import lower_attention
from moesaic.compiler.schedule.capacity import check_capacity
from moesaic.compiler.schedule.embed import lower_embed
from moesaic.compiler.schedule.feed_forward import lower_dense, lower_moe
from moesaic.compiler.schedule.operands import Normal, Rows
from moesaic.compiler.schedule.options import Schedule
from moesaic.compiler.schedule.renorm import lower_renorm
from moesaic.compiler.schedule.steps import (
    Step,
)
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.intgraph import (
    IntAttention,
    IntDense,
    IntGraph,
    IntHead,
    IntMoe,
    IntRenorm,
    head_name,
)


def lower(graph: IntGraph, arch: ArchConfig, schedule: Schedule, frames: int = 1) -> list[Step]:
    """Lower a whole task, or several frames of it together.

    The inputs of all frames lie one behind the other, and so do their outputs.

    Raises
    ------
    UserError
        The model does not fit the architecture.
    """
    check_capacity(graph, arch, frames)
    writer = StepWriter(graph, arch, schedule, frames)
    writer.following = _next_norm(writer, 0)
    lower_embed(writer)
    _lower_heads(writer, 0)
    for index, layer in enumerate(graph.layers):
        if not layer.parallel:
            (normal,) = writer.following
        writer.layer, writer.label = _layer_number(graph, index), layer.name
        writer.following = _next_norm(writer, index + 1)
        match layer:
            case IntAttention():
                lower_attention(writer, layer, normal)
            case IntDense():
                lower_dense(writer, layer, index, normal)
            case IntMoe():
                lower_moe(writer, layer, index, normal)
            case IntRenorm():
                lower_renorm(writer, layer, normal)
            case _:
                assert_never(layer)
        writer.complete(writer.rows.stop)
        _lower_heads(writer, index + 1)
    return writer.steps


def _next_norm(writer: StepWriter, index: int) -> list[Normal]:
    """The norms that layer ``index``, or the first head behind the last one, begins with; none
    where the layer reads that of the one in front of it."""
    graph = writer.graph
    if index == len(graph.layers):
        return _head_norms(writer, next(n for n, h in enumerate(graph.heads) if h.depth == index))
    layer = graph.layers[index]
    if layer.parallel:
        return []
    wide, kept = _has_wide_rows(graph, index), writer.keeps_norm(index)
    number = _layer_number(graph, index)
    return [writer.begin_norm(layer.norm, writer.rows, wide, number, layer.name, kept)]


def _head_norms(writer: StepWriter, number: int) -> list[Normal]:
    """The norms that a head begins with: one for each frame."""
    heads = writer.graph.heads
    head = heads[number]
    before = sum((h.depth, n) < (head.depth, number) for n, h in enumerate(heads))
    label = "head" if len(heads) == 1 else f"{head_name(number)}:{head.name}"
    return [
        writer.begin_norm(
            head.norm,
            range(frame.start + head.first_row, frame.start + head.first_row + head.rows),
            head.wide,
            1 + head.depth + before,
            label,
        )
        for frame in writer.frames
    ]


def _layer_number(graph: IntGraph, index: int) -> int:
    """Place of a layer in ``graph_sizes.parts``, where heads have theirs, too."""
    return 1 + index + sum(head.depth <= index for head in graph.heads)


def _has_wide_rows(graph: IntGraph, index: int) -> bool:
    """Whether layer ``index``, or one parallel to it, reads 16-bit rows: gates always do."""
    behind = takewhile(lambda layer: layer.parallel, graph.layers[index + 1 :])
    return any(layer.wide or isinstance(layer, IntMoe) for layer in (graph.layers[index], *behind))


def _lower_heads(writer: StepWriter, depth: int) -> None:
    """Lower the heads that read the stream where it is now: what comes next may change it."""
    graph = writer.graph
    shapes = [(head.rows, head.linear.outputs) for head in graph.heads]
    offsets = layout.output_offsets(writer.arch, shapes * len(writer.frames))
    for number, head in enumerate(graph.heads):
        if head.depth != depth:
            continue
        following = writer.following
        if depth < len(graph.layers) or not following:
            writer.following = _head_norms(writer, number)
            writer.complete(writer.rows.stop)
        normals = writer.following
        # Behind the last layer the first head's norms were what followed.
        writer.following = following if depth < len(graph.layers) else []
        for normal, offset in zip(normals, offsets[number :: len(shapes)], strict=False):
            writer.layer, writer.label = normal.layer, normal.label
            _lower_head(writer, head, normal, offset)


def _lower_head(writer: StepWriter, head: IntHead, normal: Normal, offset: int) -> None:
    """Project normalised rows, and store the output from chunk ``offset`` on as it drains."""
    writer.emit(
        isa.Opcode.STORE,
        offset=offset * 2 * writer.arch.lanes,
        words=layout.output_chunks(writer.arch, head.rows, head.linear.outputs),
    )
    writer.linear(
        normal.source(head.wide),
        writer.weights(head.linear),
        Rows.block(normal.rows),
        {"kind": isa.Drain.OUTPUT},
        (),
        columns=head.linear.outputs,
    )
