"""Gates of mixtures: the scores of all tokens, and the routing that makes queues of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.schedule.head_start import head_start
from moesaic.compiler.schedule.lists import sequence
from moesaic.compiler.schedule.operands import Normal, Rows, Source
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec import isa
from moesaic.spec.intgraph import IntLinear, IntMoe


def lower_gates(writer: StepWriter, layer: IntMoe, index: int, normal: Normal) -> None:
    """Write the steps up to the queues of layer ``index``."""
    if layer.corrections is not None:
        _lower_corrections(writer, layer.corrections, normal)
    writer.route(
        normal.source(True),
        _gates(writer, layer, index, normal),
        top_k=layer.top_k,
        renormalise=int(layer.renormalise),
        sigmoid=int(layer.sigmoid),
        multiplier=layer.softmax.multiplier,
        shift=layer.softmax.shift,
        sequence=sequence(writer.graph, writer.arch, index),
        corrected=int(layer.corrections is not None),
    )


def _gates(
    writer: StepWriter, layer: IntMoe, index: int, normal: Normal
) -> list[tuple[IntLinear, range]]:
    """The gate of all rows, or that of every task and its rows; for each part of the rows that is
    normalised by itself, where there is a head start."""
    gates = _of_tasks(writer, layer, index)
    if layer.parallel:
        return gates
    return [(gate, part) for gate, rows in gates for part in head_start(writer, normal, rows, 1)[0]]


def _of_tasks(writer: StepWriter, layer: IntMoe, index: int) -> list[tuple[IntLinear, range]]:
    """The gate of all rows, or that of every task and its rows."""
    joint, rows = writer.joint, writer.rows
    if index < joint.common:
        return [(layer.gate, rows)]
    gates: list[tuple[IntLinear, range]] = []
    size = len(rows) // len(joint.graphs)
    for number, graph in enumerate(joint.graphs):
        mine = graph.layers[index]
        assert isinstance(mine, IntMoe)
        gates.append((mine.gate, rows[number * size : (number + 1) * size]))
    return gates


def _lower_corrections(writer: StepWriter, corrections: NDArray[np.int32], normal: Normal) -> None:
    """The row of logits that ROUTE takes as corrections: the biases of a product with zeros."""
    arch, experts = writer.arch, len(corrections)
    linear = IntLinear(
        weight=np.zeros((experts, arch.depth), np.int8),
        bias=corrections,
        multiplier=np.ones(experts, np.uint16),
        shift=np.zeros(experts, np.uint8),
    )
    weights = writer.weights(linear)
    writer.linear(
        Source(normal.source(False).buffer),
        weights,
        Rows(1),
        {"kind": isa.Drain.LOGITS},
        (),
        columns=experts,
        one_group=len(weights.columns) > arch.width,
    )
