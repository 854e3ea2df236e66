"""Where tasks of one program begin to differ: each gets a stream of its own."""

from __future__ import annotations

from moesaic.compiler.schedule.spill import IDENTITY
from moesaic.compiler.schedule.steps import (
    reads_scratch,
    reads_stream,
    writes_scratch,
    writes_stream,
)
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec import isa, layout, scratch


def divide(writer: StepWriter, index: int) -> None:
    """Copy the streams of all images behind themselves, once for every further task, where layer
    ``index`` is the first in which tasks differ."""
    if index == writer.joint.common and writer.joint.divides:
        _copy(writer)
        writer.divide()
        writer.complete(writer.rows.stop)


def _copy(writer: StepWriter) -> None:
    """Write the rows to scratch and read them again, because nothing else writes rows of the
    residual memory as they are."""
    arch, words, rows = writer.arch, writer.residual_words, writer.rows
    row_bytes = words * layout.load_bytes(arch, isa.Space.RESIDUAL)
    first_byte = scratch.first_byte(arch, writer.joint.outputs)
    for block in writer.blocks(rows):
        writer.emit(
            isa.Opcode.STORE,
            (writes_scratch(block),),
            offset=first_byte + block.start * row_bytes,
            words=len(block) * words,
            single=1,
        )
        writer.emit(
            isa.Opcode.NORM,
            (reads_stream(block),),
            rows=len(block),
            words=words,
            source_base=block.start * words,
            source_stride=words,
            **IDENTITY,
        )
    for number in range(1, len(writer.joint.graphs)):
        for block in writer.blocks(rows):
            target = range(block.start + number * len(rows), block.stop + number * len(rows))
            writer.emit(
                isa.Opcode.LOAD,
                (reads_scratch(block), writes_stream(target)),
                window=isa.Window.OUTPUT,
                space=isa.Space.RESIDUAL,
                offset=first_byte + block.start * row_bytes,
                words=len(block) * words,
                base=target.start * words,
            )
