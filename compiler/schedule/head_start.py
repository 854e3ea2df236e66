"""A head start: the array begins with rows that are normalised while others still are.

So that the first rows are complete early, the last column tile of the product in front, which adds
to the stream, is computed part by part, too.
"""

from __future__ import annotations

from moesaic.compiler.schedule.operands import Normal, Rows, Source, natural
from moesaic.compiler.schedule.steps import Weights, updates_stream
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec.arch import ACCUMULATOR_BANKS
from moesaic.spec.intgraph import IntLinear


def head_start(
    writer: StepWriter, normal: Normal, rows: range, tiles: int
) -> tuple[list[range], int]:
    """Parts of ``rows`` of a product that begin one by one as they are normalised, and how many
    of its column tiles do; all of them and none where there is no head start.

    A part's tiles share an accumulator bank: the array fills all banks before it waits for the
    vector unit, which has the rows of the next part to do first. So there must be room for
    parameters of all banks.
    """
    arch = writer.arch
    parts = _parts(writer, normal, rows)
    if len(parts) < 2:
        return [rows], 0
    most = min(
        tiles,
        writer.bank_limit(Rows(max(map(len, parts)))),
        max(1, arch.parameter_blocks // ACCUMULATOR_BANKS),
    )
    whole = [n for n in range(1, most + 1) if n * arch.width % arch.depth == 0]
    return (parts, whole[-1]) if whole else ([rows], 0)


def add_to_stream(
    writer: StepWriter,
    source: Source,
    linear: IntLinear,
    inputs: tuple[int, ...],
    rows: Rows,
    place: range,
) -> None:
    """Write the product of ``rows`` of ``source`` that adds to the rows ``place`` of the residual
    memory. Parts of them are complete one by one where what follows has a head start."""
    arch, outputs = writer.arch, natural(linear.outputs, writer.arch.width)
    last = len(outputs) - arch.width
    parts = [place]
    if len(writer.following) == 1 and last and arch.width % arch.lanes == 0:
        parts = _parts(writer, writer.following[0], place)
    pieces = [(place, range(len(outputs)))]
    if len(parts) > 1 and sum(map(len, parts)) == len(place):
        pieces = [(place, range(last)), *((part, range(last, len(outputs))) for part in parts)]
    for part, columns in pieces:
        drain = writer.to_residual(part.start)
        drain["base"] = part.start * writer.residual_words + columns.start // arch.lanes
        writer.linear(
            source,
            Weights(linear, inputs, outputs[columns.start : columns.stop]),
            Rows(len(part), first=rows.first + part.start - place.start),
            drain,
            updates_stream(part),
            columns=min(columns.stop, writer.residual_words * arch.lanes) - columns.start,
        )
        if columns.start and part.stop < place.stop:
            writer.complete(part.stop)


def _parts(writer: StepWriter, normal: Normal, rows: range) -> list[range]:
    """Parts of ``rows`` that are normalised one by one; all of them where that is by the block, or
    as they are read."""
    if not normal.place or writer.spill or len(writer.blocks(rows)) > 1:
        return [rows]
    found = [range(max(b.start, rows.start), min(b.stop, rows.stop)) for b in normal.blocks]
    return [part for part in found if part]
