"""Several tasks of one image in one program: what they have in common is computed once.

Up to the first layer in which they differ there is one stream. It is copied then, behind itself,
once for every further task: from there on layers work on the rows of all tasks, but for gates and
heads, of which each task has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace

import numpy as np

from moesaic.compiler.schedule.spill import IDENTITY
from moesaic.compiler.schedule.steps import (
    reads_scratch,
    reads_stream,
    writes_scratch,
    writes_stream,
)
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec import isa, layout, scratch
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntGraph, IntLayer, IntMoe


def common_layers(graphs: Sequence[IntGraph]) -> int:
    """Layers in front of which the streams of all tasks are the same.

    Raises
    ------
    UserError
        Tasks differ in their inputs or sizes, or later on in more than gates and heads.
    """
    first, common = graphs[0], len(graphs[0].layers)
    for other in graphs[1:]:
        where = f"tasks {first.task} and {other.task} can't be computed together"
        if not _equal(_begin(first), _begin(other)):
            raise UserError(f"{where}: their inputs or embeddings differ; run them one by one")
        for index, (mine, its) in enumerate(zip(first.layers, other.layers, strict=True)):
            if _equal(_unnamed(mine), _unnamed(its)):
                continue
            common = min(common, index)
            if not _equal(_ungated(mine), _ungated(its)):
                raise UserError(
                    f"{where}: layer {mine.name} differs in more than its gate; run them one by one"
                )
    while 0 < common < len(first.layers) and first.layers[common].parallel:
        common -= 1
    return common


def _begin(graph: IntGraph) -> tuple[object, ...]:
    """What must be equal in front of all layers."""
    return (
        graph.input_shape,
        graph.input_scale,
        graph.input_zero,
        graph.gather,
        graph.residual_scale,
        graph.embed,
        len(graph.layers),
    )


def _unnamed(layer: IntLayer) -> IntLayer:
    return replace(layer, name="")


def _ungated(layer: IntLayer) -> IntLayer:
    """A layer without what each task may have of its own."""
    if not isinstance(layer, IntMoe):
        return _unnamed(layer)
    experts = len(layer.experts)
    gate = replace(
        layer.gate,
        weight=np.zeros((experts, 0), np.int8),
        bias=np.zeros(0, np.int32),
        multiplier=np.zeros(0, np.uint16),
        shift=np.zeros(0, np.uint8),
    )
    return replace(layer, name="", gate=gate)


def _equal(one: object, other: object) -> bool:
    """Whether values are equal, arrays in all their elements."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if is_dataclass(one) and not isinstance(one, type):
        return all(
            _equal(getattr(one, part.name), getattr(other, part.name)) for part in fields(one)
        )
    return one == other


def copy_stream(writer: StepWriter) -> None:
    """Write the steps that copy the common stream behind itself, for every further task: to scratch
    and back, because nothing else writes rows of the residual memory as they are."""
    arch, words, rows = writer.arch, writer.residual_words, writer.rows
    row_bytes = words * layout.load_bytes(arch, isa.Space.RESIDUAL)
    first_byte = scratch.first_byte(arch, writer.outputs)
    for block in writer.blocks(rows):
        place = first_byte + block.start * row_bytes
        writer.emit(
            isa.Opcode.STORE,
            (writes_scratch(block),),
            offset=place,
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
    for number in range(1, len(writer.tasks)):
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
