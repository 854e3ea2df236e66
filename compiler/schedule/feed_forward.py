"""Feed-forward layers: dense, and mixtures whose experts run one behind the other."""

from __future__ import annotations

from collections.abc import Sequence

from moesaic.compiler.schedule.steps import (
    QUEUES_WRITE,
    RESIDUAL_READ,
    RESIDUAL_WRITE,
    Address,
    Buffer,
    writes,
)
from moesaic.compiler.schedule.writer import Rows, Source, StepWriter
from moesaic.spec import isa, layout
from moesaic.spec.intgraph import IntDense, IntMlp, IntMoe


def lower_dense(writer: StepWriter, layer: IntDense) -> None:
    """Write the steps of a dense MLP layer."""
    rows = Rows(writer.graph.tokens)
    normal = writer.norm(layer.norm, writer.graph.tokens, wide=layer.wide)
    hidden = _hidden(writer, (layer.mlp,))
    _lower_up(writer, Source.normalised(normal, layer.wide), hidden, layer.mlp, rows)
    _lower_down(writer, hidden, layer.mlp, rows)


def lower_moe(writer: StepWriter, layer: IntMoe, index: int) -> None:
    """Gate, routing, then experts: first products run some experts ahead of the second ones, so
    that hidden activations drain meanwhile. Their sums keep the experts' order."""
    tokens = writer.graph.tokens
    normal = writer.norm(layer.norm, tokens, wide=True)
    sequence = _sequence(writer, index)
    logit_tiles = layout.words(layer.gate.outputs, writer.arch.width)
    writer.linear(
        Source.normalised(normal, True),
        writer.weights(layer.gate),
        Rows(tokens),
        {"kind": isa.Drain.LOGITS},
        (),
        columns=layer.gate.outputs,
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
    hidden = [_hidden(writer, layer.experts, f"hidden{i}") for i in range(ahead + 1)]
    rows = Source.normalised(normal, layer.wide)
    for number in range(len(layer.experts) + ahead):
        if number < len(layer.experts):
            expert = layer.experts[number]
            place = hidden[number % len(hidden)]
            _lower_up(writer, rows, place, expert, Rows(0, number), gather=True)
        if number >= ahead:
            done = number - ahead
            place = hidden[done % len(hidden)]
            _lower_down(writer, place, layer.experts[done], Rows(0, done))


def _sequence(writer: StepWriter, index: int) -> int:
    """Number of the routing of layer ``index``, 1 .. 255."""
    return sum(isinstance(layer, IntMoe) for layer in writer.graph.layers[: index + 1]) % 255 + 1


def _hidden(writer: StepWriter, mlps: Sequence[IntMlp], name: str = "hidden") -> Buffer:
    """Room for the hidden rows of any of ``mlps``: two planes if one needs them."""
    widest = max(mlp.up.outputs for mlp in mlps)
    planes = 2 if any(mlp.wide for mlp in mlps) else 1
    return writer.buffer(name, writer.graph.tokens, widest, 1, planes)


def _lower_up(
    writer: StepWriter,
    source: Source,
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
            "offset": mlp.offset,
            "wide": int(mlp.wide),
            "plane_stride": hidden.words // 2 if mlp.wide else 0,
        },
        writes(hidden),
        columns=layout.words(mlp.up.outputs, writer.arch.lanes) * writer.arch.lanes,
        gather=gather,
    )


def _lower_down(writer: StepWriter, hidden: Buffer, mlp: IntMlp, rows: Rows) -> None:
    drain = writer.to_residual()
    if rows.expert is not None:
        drain["scatter"] = 1
    source = Source(hidden, isa.Streamed.UNSIGNED8)
    if mlp.wide:
        source = Source(hidden, isa.Streamed.SIGNED16, 0, hidden.words // 2)
    writer.linear(
        source,
        writer.weights(mlp.down),
        rows,
        drain,
        (RESIDUAL_READ, RESIDUAL_WRITE),
        columns=writer.residual_words * writer.arch.lanes,
    )
