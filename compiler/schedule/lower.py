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
    RESIDUAL_READ,
    RESIDUAL_WRITE,
    Address,
    Step,
    writes,
)
from moesaic.compiler.schedule.writer import Rows, Source, StepWriter
from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.intgraph import IntAttention, IntDense, IntGraph, IntMoe, IntRenorm


def lower(graph: IntGraph, arch: ArchConfig, schedule: Schedule) -> list[Step]:
    """Lower a whole task.

    Raises
    ------
    UserError
        The model does not fit the architecture.
    """
    check_capacity(graph, arch)
    writer = StepWriter(graph, arch, schedule)
    _lower_embed(writer)
    for index, layer in enumerate(graph.layers):
        writer.layer, writer.label = index + 1, layer.name
        if not layer.parallel:
            normal = writer.norm(layer.norm, graph.tokens, wide=_has_wide_rows(graph, index))
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
    writer.layer, writer.label = len(graph.layers) + 1, "head"
    _lower_head(writer)
    return writer.steps


def _has_wide_rows(graph: IntGraph, index: int) -> bool:
    """Whether layer ``index``, or one parallel to it, reads 16-bit rows: gates always do."""
    behind = takewhile(lambda layer: layer.parallel, graph.layers[index + 1 :])
    return any(layer.wide or isinstance(layer, IntMoe) for layer in (graph.layers[index], *behind))


def _lower_embed(writer: StepWriter) -> None:
    """Load patches and the first residual, add the patch embedding."""
    graph, arch = writer.graph, writer.arch
    embed = graph.embed
    rows = graph.gather.shape[0]
    patches = writer.buffer("patches", rows, embed.linear.inputs)
    writer.emit(
        isa.Opcode.LOAD,
        writes(patches),
        window=isa.Window.INPUT,
        space=isa.Space.ACTIVATION,
        words=patches.words,
        base=Address(patches),
    )
    writer.emit(
        isa.Opcode.LOAD,
        (RESIDUAL_WRITE,),
        window=isa.Window.CONSTANT,
        space=isa.Space.RESIDUAL,
        offset=0,
        words=graph.tokens * writer.residual_words,
        base=0,
    )
    writer.linear(
        Source(patches),
        writer.weights(embed.linear),
        Rows(rows),
        writer.to_residual(embed.first_row),
        (RESIDUAL_READ, RESIDUAL_WRITE),
        columns=layout.words(embed.linear.outputs, arch.lanes) * arch.lanes,
    )


def _lower_head(writer: StepWriter) -> None:
    """Normalise, project, and store the outputs as they drain."""
    head = writer.graph.head
    normal = writer.norm(head.norm, head.rows, head.first_row, head.wide)
    writer.emit(
        isa.Opcode.STORE,
        words=layout.output_chunks(writer.arch, head.rows, head.linear.outputs),
    )
    writer.linear(
        Source.normalised(normal, head.wide),
        writer.weights(head.linear),
        Rows(head.rows),
        {"kind": isa.Drain.OUTPUT},
        (),
        columns=head.linear.outputs,
    )
