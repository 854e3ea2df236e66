"""Queues of layers that work on scattered tokens: a routing whose scores are constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesaic.compiler.schedule.operands import Rows, Source
from moesaic.compiler.schedule.steps import Address, writes
from moesaic.compiler.schedule.writer import StepWriter
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.constants import lists_offset
from moesaic.spec.intgraph import IntGraph, IntLinear, IntMoe
from moesaic.spec.lists import routings, scattered

LISTED, REST = 2, 1
"""Scores of a token in its own queue, and in the one that nobody reads; in any other it has 0."""


@dataclass(frozen=True)
class Routing:
    """Which layers' queues one ROUTE makes.

    Attributes
    ----------
    layers
        Their numbers; a layer's place is the number of its queue.
    rows
        Rows of each queue; behind those of the layers that of the tokens that are in none.
    """

    layers: list[int]
    rows: tuple[int, ...]

    @staticmethod
    def all(graph: IntGraph, arch: ArchConfig) -> list[Routing]:
        """Those of a task, in order."""
        lists, found = scattered(graph), []
        for group in routings(graph, arch.max_experts - 1):
            rows = [len(lists[number]) for number in group]
            found.append(Routing(group, (*rows, graph.tokens - sum(rows))))
        return found


def sequence(graph: IntGraph, arch: ArchConfig, index: int) -> int:
    """Number of the last routing up to layer ``index``, 1 .. 255."""
    mixtures = sum(isinstance(layer, IntMoe) for layer in graph.layers[: index + 1])
    lists = sum(routing.layers[0] <= index for routing in Routing.all(graph, arch))
    return (mixtures + lists) % 255 + 1


def queue_of(writer: StepWriter, index: int) -> Rows:
    """The queue with the tokens of layer ``index``; the first layer of a routing makes it."""
    routing = next(r for r in Routing.all(writer.graph, writer.arch) if index in r.layers)
    if index == routing.layers[0]:
        _make_queues(writer, routing)
    number = routing.layers.index(index)
    return Rows(routing.rows[number], number)


def _make_queues(writer: StepWriter, routing: Routing) -> None:
    graph, arch = writer.graph, writer.arch
    columns = list(scattered(graph))
    table = writer.buffer("lists", graph.tokens, len(columns))
    writer.emit(
        isa.Opcode.LOAD,
        writes(table),
        window=isa.Window.CONSTANT,
        space=isa.Space.ACTIVATION,
        offset=lists_offset(graph, arch),
        words=table.words,
        base=Address(table),
    )
    gate = _gate(len(columns), [columns.index(number) for number in routing.layers])
    writer.route(
        Source(table),
        [(gate, writer.rows)],
        routing.rows,
        sequence=sequence(graph, arch, routing.layers[0]),
        # Of one chosen expert the weight is exactly 1, whatever the scores are.
        top_k=1,
        renormalise=1,
    )


def _gate(columns: int, mine: list[int]) -> IntLinear:
    """Scores of the lists in some ``columns`` of the table, and of the tokens in none of them."""
    outputs = len(mine) + 1
    weight, bias = np.zeros((outputs, columns), np.int8), np.zeros(outputs, np.int32)
    weight[range(len(mine)), mine] = LISTED
    bias[-1] = REST
    return IntLinear(weight, bias, np.ones(outputs, np.uint16), np.zeros(outputs, np.uint8))
