"""Lowering: an integer graph becomes steps in program order."""

from __future__ import annotations

from itertools import accumulate, takewhile
from typing import assert_never

from moesaic.compiler.schedule.attention import lower_attention
from moesaic.compiler.schedule.capacity import check_capacity
from moesaic.compiler.schedule.divide import divide
from moesaic.compiler.schedule.embed import lower_embed
from moesaic.compiler.schedule.feed_forward import lower_dense, lower_moe
from moesaic.compiler.schedule.joint import Joint
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


def lower(work: IntGraph | Joint, arch: ArchConfig, schedule: Schedule) -> list[Step]:
    """Lower a whole task, or all that is computed together.

    The inputs of all frames lie one behind the other, and so do outputs of tasks and frames.

    Raises
    ------
    UserError
        The model does not fit the architecture.
    """
    joint = Joint.of(work)
    graph = joint.graph
    check_capacity(joint, arch)
    writer = StepWriter(joint, arch, schedule)
    writer.following = _next_norm(writer, 0)
    lower_embed(writer)
    _lower_heads(writer, 0)
    divide(writer, 0)
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
        divide(writer, index + 1)
    return writer.steps


def _next_norm(writer: StepWriter, index: int) -> list[Normal]:
    """The norms that layer ``index``, or the first heads behind the last one, begin with; none
    where the layer reads that of the one in front of it."""
    graph = writer.graph
    if index == len(graph.layers):
        return [_head_norm(writer, part, n) for part, n in _heads(writer, index, first=True)]
    layer = graph.layers[index]
    if layer.parallel:
        return []
    wide, kept = _has_wide_rows(graph, index), writer.keeps_norm(index)
    number = _layer_number(graph, index)
    # The streams of tasks are there when the first layer in which they differ begins.
    rows = range(writer.joint.tokens) if index == writer.joint.common else writer.rows
    parts = 1 if isinstance(layer, IntRenorm) else writer.schedule.head_start
    return [writer.begin_norm(layer.norm, rows, wide, number, layer.name, kept, parts)]


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
    first = rows.start + head.first_row
    mine = range(first, first + head.rows)
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
    offsets = layout.output_offsets(writer.arch, writer.joint.outputs)
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
