"""Feed-forward layers: dense, and mixtures whose experts run one behind the other."""

from __future__ import annotations

from moesaic.compiler.schedule.steps import (
    QUEUES_WRITE,
    RESIDUAL_READ,
    RESIDUAL_WRITE,
    Address,
    Buffer,
    writes,
)
from moesaic.compiler.schedule.writer import Rows, StepWriter
from moesaic.spec import isa, layout
from moesaic.spec.intgraph import IntDense, IntMlp, IntMoe


def lower_dense(writer: StepWriter, layer: IntDense) -> None:
    """Write the steps of a dense MLP layer."""
    rows = Rows(writer.graph.tokens)
    narrow = writer.norm(layer.norm, writer.graph.tokens)
    hidden = _hidden(writer, layer.mlp)
    _lower_up(writer, narrow, hidden, layer.mlp, rows)
    _lower_down(writer, hidden, layer.mlp, rows)


def lower_moe(writer: StepWriter, layer: IntMoe, index: int) -> None:
    """Gate, routing, then experts: first products run some experts ahead of the second ones, so
    that hidden activations drain meanwhile. Their sums keep the experts' order."""
    tokens = writer.graph.tokens
    narrow = writer.norm(layer.norm, tokens, wide=True)
    plane = narrow.words // 3
    sequence = _sequence(writer, index)
    logit_tiles = layout.words(layer.gate.outputs, writer.arch.width)
    writer.linear(
        narrow,
        writer.weights(layer.gate),
        Rows(tokens),
        {"kind": isa.Drain.LOGITS},
        (),
        columns=layer.gate.outputs,
        streamed=isa.Streamed.SIGNED16,
        plane=plane,
        one_group=logit_tiles > 1,
    )
    writer.emit(
        isa.Opcode.ROUTE,
        (QUEUES_WRITE,),
        rows=tokens,
        first_row=0,
        experts=len(layer.experts),
        top_k=layer.top_k,
        renormalise=int(layer.renormalise),
        multiplier=layer.softmax.multiplier,
        shift=layer.softmax.shift,
        sequence=sequence,
    )
    ahead = min(writer.schedule.experts_ahead, len(layer.experts) - 1)
    widest = max(layer.experts, key=lambda expert: expert.up.outputs)
    hidden = [_hidden(writer, widest, f"hidden{i}") for i in range(ahead + 1)]
    for number in range(len(layer.experts) + ahead):
        if number < len(layer.experts):
            expert = layer.experts[number]
            place = hidden[number % len(hidden)]
            _lower_up(writer, narrow, place, expert, Rows(0, number), gather=True)
        if number >= ahead:
            done = number - ahead
            place = hidden[done % len(hidden)]
            _lower_down(writer, place, layer.experts[done], Rows(0, done))


def _sequence(writer: StepWriter, index: int) -> int:
    """Number of the routing of layer ``index``, 1 .. 255."""
    return sum(isinstance(layer, IntMoe) for layer in writer.graph.layers[: index + 1]) % 255 + 1


def _hidden(writer: StepWriter, mlp: IntMlp, name: str = "hidden") -> Buffer:
    return writer.buffer(name, writer.graph.tokens, mlp.up.outputs, 1)


def _lower_up(
    writer: StepWriter,
    source: Buffer,
    hidden: Buffer,
    mlp: IntMlp,
    rows: Rows,
    gather: bool = False,
) -> None:
    words = writer.words(mlp.up.outputs)
    writer.linear(
        source,
        writer.weights(mlp.up),
        rows,
        {
            "kind": isa.Drain.GELU,
            "base": Address(hidden),
            "stride": words,
            "multiplier": mlp.gelu.multiplier,
            "shift": mlp.gelu.shift,
        },
        writes(hidden),
        columns=layout.words(mlp.up.outputs, writer.arch.lanes) * writer.arch.lanes,
        gather=gather,
    )


def _lower_down(writer: StepWriter, hidden: Buffer, mlp: IntMlp, rows: Rows) -> None:
    drain = writer.to_residual()
    if rows.expert is not None:
        drain["scatter"] = 1
    writer.linear(
        hidden,
        writer.weights(mlp.down),
        rows,
        drain,
        (RESIDUAL_READ, RESIDUAL_WRITE),
        columns=writer.residual_words * writer.arch.lanes,
    )
