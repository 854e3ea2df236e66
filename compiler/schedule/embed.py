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
    blocks = writer.blocks(writer.rows)
    for rows in blocks:
        _load_stream(writer, isa.Window.INPUT, rows)
    _load_angles(writer)
    for rows in blocks:
        writer.complete(rows.stop)


def _lower_patches(writer: StepWriter, embed: IntEmbed) -> None:
    """Load blocks of patches, each with the rows of the stream that it is added to, then embed."""
    pieces = [
        (block, place + block.start - patches.start)
        for patches, place in _runs(writer, embed)
        for block in writer.blocks(patches)
    ]
    place = _patches(writer, embed, range(len(writer.frames) * writer.graph.gather.shape[0]))
    last = 0
    for rows, row in pieces:
        # Rows of the stream that have no patch come with the block in front of them.
        first, last = last, row + len(rows)
        _load_patches(writer, place, rows)
        ends = writer.rows.stop if (rows, row) == pieces[-1] else last
        _load_stream(writer, isa.Window.CONSTANT, range(first, ends))
    _load_angles(writer)
    for rows, row in pieces:
        _embed(writer, embed, place, rows, row)
        writer.complete(row + len(rows))
    writer.complete(writer.rows.stop)


def _runs(writer: StepWriter, embed: IntEmbed) -> list[tuple[range, int]]:
    """Patches of all frames whose rows of the stream follow one another, and the first of these."""
    count = writer.graph.gather.shape[0]
    if count == writer.graph.tokens:
        return [(writer.rows, 0)]
    return [
        (range(number * count, (number + 1) * count), frame.start + embed.first_row)
        for number, frame in enumerate(writer.frames)
    ]


def _lower_in_turns(writer: StepWriter, spill: Spill) -> None:
    """Begin a block of the stream behind the other; all of them go to scratch."""
    embed = writer.graph.embed
    window = isa.Window.CONSTANT if isinstance(embed, IntEmbed) else isa.Window.INPUT
    for block in spill.blocks(writer.rows):
        pieces = []
        if isinstance(embed, IntEmbed):
            for patches, row in _runs(writer, embed):
                rows = _embedded(patches, row, block)
                if rows:
                    pieces.append((_patches(writer, embed, rows), rows, row - patches.start))
                    _load_patches(writer, pieces[-1][0], rows)
        _load_stream(writer, window, block)
        for place, rows, shift in pieces:
            assert isinstance(embed, IntEmbed)
            resident = writer.resident(range(rows.start + shift, rows.stop + shift))
            _embed(writer, embed, place, rows, resident.start)
        writer.complete(block.stop)
    _load_angles(writer)


def _embedded(patches: range, row: int, block: range) -> range:
    """Those of a run of patches, whose rows of the stream begin with ``row``, that are added to
    rows of a block."""
    first = max(block.start - row, 0) + patches.start
    return range(first, min(block.stop - row + patches.start, patches.stop))


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
    """Load rows of the first residual, which a window begins with, to where they are resident: the
    input has those of all frames, the constants those of one."""
    words, place = writer.residual_words, writer.resident(rows)
    parts = [rows]
    if window == isa.Window.CONSTANT:
        shared = [range(max(rows.start, f.start), min(rows.stop, f.stop)) for f in writer.frames]
        parts = [part for part in shared if part]
    for part in parts:
        base = place.start + part.start - rows.start
        first = part.start
        if window == isa.Window.CONSTANT:
            first %= writer.graph.tokens
        writer.emit(
            isa.Opcode.LOAD,
            (writes_stream(range(base, base + len(part))),),
            window=window,
            space=isa.Space.RESIDUAL,
            offset=first * words * layout.load_bytes(writer.arch, isa.Space.RESIDUAL),
            words=len(part) * words,
            base=base * words,
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
