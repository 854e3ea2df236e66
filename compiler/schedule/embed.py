"""Lowering of what begins the residual stream: embedded patches, or codes from the host."""

from __future__ import annotations

from moesaic.compiler.schedule.operands import RowBuffer, Rows, Source
from moesaic.compiler.schedule.spill import Spill
from moesaic.compiler.schedule.steps import (
    ANGLES_WRITE,
    updates_stream,
    writes_stream,
)
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec import isa, layout
from moesaic.spec.constants import angle_places, angle_words, angles_offset
from moesaic.spec.intgraph import IntEmbed, IntTokens


def lower_embed(writer: StepWriter) -> None:
    """Load the first residual, which may be the input; else load patches, too, and add their
    embedding. A stream that does not fit its memory goes on to scratch, a block at a time."""
    embed = writer.graph.embed
    if writer.spill:
        _lower_in_turns(writer, writer.spill)
    elif isinstance(embed, IntTokens):
        _lower_tokens(writer)
    else:
        _lower_patches(writer, embed)


def _lower_tokens(writer: StepWriter) -> None:
    """Load the stream from the input."""
    blocks = writer.blocks(writer.graph.tokens)
    for rows in blocks:
        _load_stream(writer, isa.Window.INPUT, rows)
    _load_angles(writer)
    for rows in blocks:
        writer.complete(rows.stop)


def _lower_patches(writer: StepWriter, embed: IntEmbed) -> None:
    """Load blocks of patches, each with the rows of the stream that it is added to, then embed."""
    graph, last = writer.graph, 0
    count = graph.gather.shape[0]
    patches = _patches(writer, embed, range(count))
    for rows in writer.blocks(count):
        # Rows of the stream that have no patch come with the block in front of them.
        first, last = last, embed.first_row + rows.stop
        _load_patches(writer, patches, rows)
        _load_stream(
            writer,
            isa.Window.CONSTANT,
            range(first, graph.tokens if rows.stop == count else last),
        )
    _load_angles(writer)
    for rows in writer.blocks(count):
        _embed(writer, embed, patches, rows, embed.first_row + rows.start)
        writer.complete(embed.first_row + rows.stop)
    writer.complete(graph.tokens)


def _lower_in_turns(writer: StepWriter, spill: Spill) -> None:
    """Begin a block of the stream behind the other; all of them go to scratch."""
    graph = writer.graph
    embed, count = graph.embed, graph.gather.shape[0]
    window = isa.Window.CONSTANT if isinstance(embed, IntEmbed) else isa.Window.INPUT
    for block in spill.blocks(range(graph.tokens)):
        embedded = _embedded(embed, block, count)
        if isinstance(embed, IntEmbed) and embedded:
            rows = range(embedded.start - embed.first_row, embedded.stop - embed.first_row)
            patches = _patches(writer, embed, rows)
            _load_patches(writer, patches, rows)
            _load_stream(writer, window, block)
            _embed(writer, embed, patches, rows, writer.resident(embedded).start)
        else:
            _load_stream(writer, window, block)
        writer.complete(block.stop)
    _load_angles(writer)


def _embedded(embed: IntEmbed | IntTokens, block: range, count: int) -> range:
    """Rows of a block of the stream that patches are added to."""
    if isinstance(embed, IntTokens):
        return range(0)
    first, last = embed.first_row, embed.first_row + count
    return range(max(block.start, first), min(block.stop, last))


def _patches(writer: StepWriter, embed: IntEmbed, rows: range) -> RowBuffer:
    """Room for some rows of the input."""
    columns = embed.linear.inputs
    buffer = writer.buffer(f"patches{rows.start or ''}", len(rows), columns)
    return RowBuffer(buffer, rows, writer.words(columns))


def _load_patches(writer: StepWriter, patches: RowBuffer, rows: range) -> None:
    """Load rows of the input."""
    words = patches.stride
    writer.emit(
        isa.Opcode.LOAD,
        patches.writes(rows),
        window=isa.Window.INPUT,
        space=isa.Space.ACTIVATION,
        offset=rows.start * words * layout.load_bytes(writer.arch, isa.Space.ACTIVATION),
        words=len(rows) * words,
        base=patches.at(rows.start),
    )


def _load_stream(writer: StepWriter, window: isa.Window, rows: range) -> None:
    """Load rows of the first residual, which a window begins with, to where they are resident."""
    words, place = writer.residual_words, writer.resident(rows)
    writer.emit(
        isa.Opcode.LOAD,
        (writes_stream(place),),
        window=window,
        space=isa.Space.RESIDUAL,
        offset=rows.start * words * layout.load_bytes(writer.arch, isa.Space.RESIDUAL),
        words=len(rows) * words,
        base=place.start * words,
    )


def _load_angles(writer: StepWriter) -> None:
    """Load the angles of all rotations, which stay at the end of the residual memory."""
    graph, arch = writer.graph, writer.arch
    if words := sum(angle_words(graph, arch).values()):
        writer.emit(
            isa.Opcode.LOAD,
            (ANGLES_WRITE,),
            window=isa.Window.CONSTANT,
            space=isa.Space.RESIDUAL,
            offset=angles_offset(graph, arch),
            words=words,
            base=min(angle_places(graph, arch).values()),
        )


def _embed(
    writer: StepWriter, embed: IntEmbed, patches: RowBuffer, rows: range, first_row: int
) -> None:
    """Add the product of rows of patches to the residual memory from ``first_row`` on."""
    arch = writer.arch
    writer.linear(
        Source(patches.buffer, row=patches.rows.start),
        writer.weights(embed.linear),
        Rows.block(rows),
        writer.to_residual(first_row),
        updates_stream(range(first_row, first_row + len(rows))),
        columns=layout.words(embed.linear.outputs, arch.lanes) * arch.lanes,
    )
