"""Lowering: an integer graph becomes steps in program order."""

from __future__ import annotations

from itertools import takewhile
from typing import assert_never

from moesaic.compiler.schedule.attention import lower_attention
from moesaic.compiler.schedule.capacity import check_capacity
from moesaic.compiler.schedule.feed_forward import lower_dense, lower_moe
from moesaic.compiler.schedule.options import Schedule
from moesaic.compiler.schedule.renorm import lower_renorm
from moesaic.compiler.schedule.steps import (
    Address,
    Step,
    updates_stream,
    writes,
    writes_stream,
)
from moesaic.compiler.schedule.writer import Normal, Rows, Source, StepWriter
from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.intgraph import IntAttention, IntDense, IntGraph, IntMoe, IntRenorm, IntTokens


def lower(graph: IntGraph, arch: ArchConfig, schedule: Schedule) -> list[Step]:
    """Lower a whole task.

    Raises
    ------
    UserError
        The model does not fit the architecture.
    """
    check_capacity(graph, arch)
    writer = StepWriter(graph, arch, schedule)
    writer.following = _next_norm(writer, 0)
    _lower_embed(writer)
    for index, layer in enumerate(graph.layers):
        if not layer.parallel:
            assert writer.following is not None
            normal = writer.following
        writer.layer, writer.label = index + 1, layer.name
        writer.following = _next_norm(writer, index + 1)
        match layer:
            case IntAttention():
                lower_attention(writer, layer, normal)
            case IntDense():
                lower_dense(writer, layer, normal)
            case IntMoe():
                lower_moe(writer, layer, index, normal)
            case IntRenorm():
                lower_renorm(writer, layer, normal)
            case _:
                assert_never(layer)
        writer.complete(graph.tokens)
    assert writer.following is not None
    normal = writer.following
    writer.layer, writer.label = normal.layer, normal.label
    _lower_head(writer, normal)
    return writer.steps


def _next_norm(writer: StepWriter, index: int) -> Normal | None:
    """The norm that layer ``index``, or the head behind the last one, begins with; None where the
    layer reads that of the one in front of it."""
    graph = writer.graph
    if index == len(graph.layers):
        head = graph.head
        rows = range(head.first_row, head.first_row + head.rows)
        return writer.begin_norm(head.norm, rows, head.wide, index + 1, "head")
    layer = graph.layers[index]
    if layer.parallel:
        return None
    rows, wide = range(graph.tokens), _has_wide_rows(graph, index)
    return writer.begin_norm(layer.norm, rows, wide, index + 1, layer.name)


def _has_wide_rows(graph: IntGraph, index: int) -> bool:
    """Whether layer ``index``, or one parallel to it, reads 16-bit rows: gates always do."""
    behind = takewhile(lambda layer: layer.parallel, graph.layers[index + 1 :])
    return any(layer.wide or isinstance(layer, IntMoe) for layer in (graph.layers[index], *behind))


def _lower_embed(writer: StepWriter) -> None:
    """Load the first residual; where it is not the input, load patches, too, and add their
    embedding."""
    graph, arch = writer.graph, writer.arch
    embed, last = graph.embed, 0
    if isinstance(embed, IntTokens):
        for rows in writer.blocks(graph.tokens):
            _load_stream(writer, isa.Window.INPUT, rows)
        for rows in writer.blocks(graph.tokens):
            writer.complete(rows.stop)
        return
    patches = writer.buffer("patches", graph.gather.shape[0], embed.linear.inputs)
    words = writer.words(embed.linear.inputs)
    for rows in writer.blocks(graph.gather.shape[0]):
        # Rows of the stream that have no patch come with the block in front of them.
        first, last = last, embed.first_row + rows.stop
        stream = range(first, graph.tokens if rows.stop == graph.gather.shape[0] else last)
        writer.emit(
            isa.Opcode.LOAD,
            writes(patches, rows=rows),
            window=isa.Window.INPUT,
            space=isa.Space.ACTIVATION,
            offset=rows.start * words * layout.load_bytes(arch, isa.Space.ACTIVATION),
            words=len(rows) * words,
            base=Address(patches, rows.start * words),
        )
        _load_stream(writer, isa.Window.CONSTANT, stream)
    for rows in writer.blocks(graph.gather.shape[0]):
        first = embed.first_row + rows.start
        writer.linear(
            Source(patches),
            writer.weights(embed.linear),
            Rows.block(rows),
            writer.to_residual(first),
            updates_stream(range(first, first + len(rows))),
            columns=layout.words(embed.linear.outputs, arch.lanes) * arch.lanes,
        )
        writer.complete(first + len(rows))
    writer.complete(graph.tokens)


def _load_stream(writer: StepWriter, window: isa.Window, rows: range) -> None:
    """Load rows of the first residual, which a window begins with."""
    words = writer.residual_words
    writer.emit(
        isa.Opcode.LOAD,
        (writes_stream(rows),),
        window=window,
        space=isa.Space.RESIDUAL,
        offset=rows.start * words * layout.load_bytes(writer.arch, isa.Space.RESIDUAL),
        words=len(rows) * words,
        base=rows.start * words,
    )


def _lower_head(writer: StepWriter, normal: Normal) -> None:
    """Project normalised rows, and store the outputs as they drain."""
    head = writer.graph.head
    writer.emit(
        isa.Opcode.STORE,
        words=layout.output_chunks(writer.arch, head.rows, head.linear.outputs),
    )
    writer.linear(
        normal.source(head.wide),
        writer.weights(head.linear),
        Rows(head.rows),
        {"kind": isa.Drain.OUTPUT},
        (),
        columns=head.linear.outputs,
    )
