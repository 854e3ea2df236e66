"""Lowering: an integer graph becomes steps in program order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, takewhile
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
from moesaic.compiler.schedule.tasks import common_layers, copy_stream
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import (
    IntAttention,
    IntDense,
    IntGraph,
    IntHead,
    IntMoe,
    IntRenorm,
    head_name,
)


def lower(
    graph: IntGraph,
    arch: ArchConfig,
    schedule: Schedule,
    frames: int = 1,
    others: Sequence[IntGraph] = (),
) -> list[Step]:
    """Lower a whole task, or several frames of it together, or it and others on the same input.

    The inputs of all frames lie one behind the other, and so do outputs of frames and tasks.

    Raises
    ------
    UserError
        The model does not fit the architecture.
    """
    assert frames == 1 or not others
    divided = common_layers((graph, *others))
    check_capacity(graph, arch, frames if divided == len(graph.layers) else 1 + len(others))
    writer = StepWriter(graph, arch, schedule, frames, others)
    if others and writer.spill:
        raise UserError(
            f"the model does not fit target {arch.name}: tasks are computed together only where all"
            " rows of their residual streams fit; use a target with more residual_bytes"
        )
    writer.following = _next_norm(writer, 0, divided)
    lower_embed(writer)
    _lower_heads(writer, 0)
    _divide(writer, 0, divided)
    for index, layer in enumerate(graph.layers):
        if not layer.parallel:
            (normal,) = writer.following
        writer.layer, writer.label = _layer_number(graph, index), layer.name
        writer.following = _next_norm(writer, index + 1, divided)
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
        _divide(writer, index + 1, divided)
    return writer.steps


def _divide(writer: StepWriter, index: int, divided: int) -> None:
    """Where layer ``index`` is the first in which tasks differ, give each its own stream."""
    if index == divided < len(writer.graph.layers):
        copy_stream(writer)
        writer.divide()
        writer.complete(writer.rows.stop)


def _next_norm(writer: StepWriter, index: int, divided: int) -> list[Normal]:
    """The norms that layer ``index``, or the first heads behind the last one, begin with; none
    where the layer reads that of the one in front of it. Streams of tasks are there from layer
    ``divided`` on."""
    graph = writer.graph
    if index == len(graph.layers):
        return [_head_norm(writer, part, n) for part, n in _heads(writer, index, first=True)]
    layer = graph.layers[index]
    if layer.parallel:
        return []
    wide, kept = _has_wide_rows(graph, index), writer.keeps_norm(index)
    number = _layer_number(graph, index)
    rows = writer.rows
    if index == divided:
        rows = range(len(writer.tasks) * len(rows))
    return [writer.begin_norm(layer.norm, rows, wide, number, layer.name, kept)]


def _heads(writer: StepWriter, depth: int, first: bool = False) -> list[tuple[int, int]]:
    """Numbers of part and head, of all heads behind ``depth`` layers, or of the first in each
    part."""
    found = []
    for part, (graph, _) in enumerate(writer.parts):
        mine = [n for n, head in enumerate(graph.heads) if head.depth == depth]
        found += [(part, number) for number in (mine[:1] if first else mine)]
    return found


def _head_norm(writer: StepWriter, part: int, number: int) -> Normal:
    """The norm that a head of a frame, or of a task, begins with."""
    graph, rows = writer.parts[part]
    heads = graph.heads
    head = heads[number]
    before = sum((h.depth, n) < (head.depth, number) for n, h in enumerate(heads))
    label = "head" if len(heads) == 1 else f"{head_name(number)}:{head.name}"
    mine = rows[head.first_row : head.first_row + head.rows]
    return writer.begin_norm(head.norm, mine, head.wide, 1 + head.depth + before, label)


def _layer_number(graph: IntGraph, index: int) -> int:
    """Place of a layer in ``graph_sizes.parts``, where heads have theirs, too."""
    return 1 + index + sum(head.depth <= index for head in graph.heads)


def _has_wide_rows(graph: IntGraph, index: int) -> bool:
    """Whether layer ``index``, or one parallel to it, reads 16-bit rows: gates always do."""
    behind = takewhile(lambda layer: layer.parallel, graph.layers[index + 1 :])
    return any(layer.wide or isinstance(layer, IntMoe) for layer in (graph.layers[index], *behind))


def _lower_heads(writer: StepWriter, depth: int) -> None:
    """Lower the heads that read the stream where it is now: what comes next may change it."""
    offsets = layout.output_offsets(writer.arch, writer.outputs)
    firsts = [0, *accumulate(len(graph.heads) for graph, _ in writer.parts)]
    following, ahead = writer.following, {}
    if depth == len(writer.graph.layers):  # the first heads' norms were what followed
        ahead = dict(zip(_heads(writer, depth, first=True), following, strict=True))
        following = []
    for part, number in _heads(writer, depth):
        normal = ahead.get((part, number))
        if normal is None:
            normal = _head_norm(writer, part, number)
            writer.following = [normal]
            writer.complete(writer.rows.stop)
        writer.layer, writer.label = normal.layer, normal.label
        _lower_head(
            writer, writer.parts[part][0].heads[number], normal, offsets[firsts[part] + number]
        )
    writer.following = following


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
