"""The residual stream begins anew: its norm, zeros over it, and the norm added to them.

The LOAD of zeros runs beside the product, whose DRAIN waits for both. Of a diagonal matrix only the
tiles on the diagonal are computed: column tiles that need the same inputs are one product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, product

import numpy as np

from moesaic.compiler.schedule.operands import Normal, Rows, pad_to
from moesaic.compiler.schedule.steps import Weights, updates_stream, writes_stream
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.constants import zeros_offset
from moesaic.spec.intgraph import IntLinear, IntRenorm


def lower_renorm(writer: StepWriter, layer: IntRenorm, normal: Normal) -> None:
    """Write the steps of one layer that replaces the residual stream."""
    arch, graph = writer.arch, writer.graph
    for frame in writer.frames:
        writer.emit(
            isa.Opcode.LOAD,
            (writes_stream(frame),),
            window=isa.Window.CONSTANT,
            space=isa.Space.RESIDUAL,
            offset=zeros_offset(graph, arch),
            words=len(frame) * writer.residual_words,
            base=frame.start * writer.residual_words,
        )
    source = normal.source(True)
    blocks = [(linear, *block) for linear in layer.linears for block in _blocks(linear, arch)]
    for rows, (linear, inputs, outputs) in product(writer.blocks(writer.rows), blocks):
        drain = writer.to_residual(rows.start)
        drain["base"] = rows.start * writer.residual_words + outputs.start // arch.lanes
        writer.linear(
            replace(
                source,
                first=source.first + inputs.start // arch.depth,
                stride=writer.words(graph.channels),
            ),
            Weights(linear, pad_to(tuple(inputs), arch.depth), pad_to(tuple(outputs), arch.width)),
            Rows.block(rows),
            drain,
            updates_stream(rows),
            columns=layout.words(len(outputs), arch.lanes) * arch.lanes,
        )
        writer.complete(rows.start)
    writer.complete(writer.rows.stop)


def _blocks(linear: IntLinear, arch: ArchConfig) -> Iterator[tuple[range, range]]:
    """Inputs and outputs of the blocks of the matrix that are not zero, in order of the outputs."""
    tiles = range(0, linear.outputs, arch.width)

    def inputs(first: int) -> range:
        used = np.flatnonzero(linear.weight[first : first + arch.width].any(0))
        if not used.size:
            return range(min(arch.depth, linear.inputs))
        start = int(used[0]) // arch.depth * arch.depth
        end = layout.words(int(used[-1]) + 1, arch.depth) * arch.depth
        return range(start, min(end, linear.inputs))

    for block, group in groupby(tiles, inputs):
        firsts = list(group)
        yield block, range(firsts[0], min(firsts[-1] + arch.width, linear.outputs))
