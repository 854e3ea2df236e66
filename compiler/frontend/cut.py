"""Where a graph is divided: the accelerator computes one tensor, the host all that follows.

Every path from the input to the output must pass through that tensor, and the accelerator must be
able to deliver it: tokens behind a LayerNorm, or behind a LayerNorm and one linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from moesaic.compiler import ir
from moesaic.compiler.frontend.head import read_head
from moesaic.compiler.frontend.load import describe, reads
from moesaic.compiler.frontend.operators import Note
from moesaic.compiler.frontend.read import State
from moesaic.compiler.frontend.recognise import read_embedding, read_layers
from moesaic.compiler.frontend.trace import Trace
from moesaic.compiler.frontend.views import Norm, NotRecognised, Source, Sum, View

UNREADABLE = (
    NotRecognised,
    AssertionError,
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
)
"""What recognition raises; all but the first where it meets something nobody thought of."""


@dataclass
class Backbone:
    """What the accelerator does up to the tensor `tensor`."""

    tensor: str
    embed: ir.Embed
    layers: list[ir.Layer]
    head: ir.Head
    notes: list[Note]


def common_tensors(traced: Trace) -> list[str]:
    """Return the tensors that all paths from input to output pass through, the output first.

    These are the output's dominators in the graph of data; what is constant once the shapes are
    known (the Shape of a tensor, for example) takes no part.
    """
    graph = traced.graph
    parent: dict[str, str] = {}
    depth = {graph.input_name: 0}

    def common(one: str, other: str) -> str:
        while one != other:
            if depth[one] >= depth[other]:
                one = parent[one]
            else:
                other = parent[other]
        return one

    for node in graph.nodes:
        data = [name for name in reads(node) if name in depth]
        if not data:
            continue
        meeting = reduce(common, data)
        for name in node.output:
            if isinstance(traced.values.get(name), View) or name not in traced.values:
                parent[name], depth[name] = meeting, depth[meeting] + 1
    name = graph.output_name
    result = []
    while name in depth:
        result.append(name)
        if name == graph.input_name:
            break
        name = parent[name]
    return result


def find_cut(traced: Trace) -> Backbone:
    """Return the backbone that leaves the least to the host.

    Raises
    ------
    NotRecognised
        There is none; the message names the node that is in the way.
    """
    arena = traced.arena
    first: Exception | None = None
    for name in common_tensors(traced):
        view = traced.values.get(name)
        if not isinstance(view, View):
            continue
        try:
            head, state = read_head(arena, view)
        except UNREADABLE:
            continue
        notes: list[Note] = []
        try:
            layers, state = read_layers(arena, state, notes)
            if not layers:
                raise NotRecognised(f"no transformer layer lies in front of {head.norm.name!r}")
            embed = read_embedding(arena, state, traced.source)
        except UNREADABLE as error:
            first = first or error
            continue
        return Backbone(name, embed, layers, head, notes)
    if first is not None:
        raise NotRecognised(str(first)) from first
    raise NotRecognised(_obstacle(traced))


def _obstacle(traced: Trace) -> str:
    """Say what is in the way of every cut."""
    if not traced.refused:
        try:
            read_head(traced.arena, traced.output())
        except UNREADABLE as error:
            return str(error)
    first = next(iter(traced.refused.values()))
    if not any(isinstance(source, Norm) for source in traced.arena.sources):
        return (
            f"no transformer layer lies in front of {first.node}, which the accelerator does not "
            f"take ({first.reason}): only what follows the last layer can run on the host"
        )
    built: dict[str, dict[int, Source]] = {}
    for node in traced.graph.nodes:
        used: dict[int, Source] = {}
        for name in reads(node):
            view = traced.values.get(name)
            if isinstance(view, View):
                used |= {source.start: source for source in traced.arena.sources_of(view)}
            used |= built.get(name, {})
        if any(name in traced.values for name in node.output):
            continue
        if len(used) > 1:
            names = " and ".join(source.node for source in list(used.values())[:2])
            return (
                f"{describe(node)} joins the results of {names}: a head on features of several "
                "layers cannot be divided off; let it read one LayerNorm behind the last layer"
            )
        built.update(dict.fromkeys(node.output, used))
    (source,) = next(used for used in built.values() if used).values()
    if isinstance(source, Sum) and _is_stream(traced, source):
        return (
            f"{first.node} reads the residual stream as {source.node} leaves it, but the "
            "accelerator delivers tokens behind a LayerNorm only: end the backbone with one"
        )
    return (
        f"{source.node}, which {first.node} builds on, is neither a LayerNorm of the tokens nor "
        "one linear layer behind it"
    )


def _is_stream(traced: Trace, source: Sum) -> bool:
    """Say whether transformer layers can be read in front of a sum."""
    norms = [norm for norm in traced.arena.sources if isinstance(norm, Norm)]
    channels = norms[-1].rows.shape[1]
    if source.size % channels:
        return False
    stream = traced.arena.view(source, (source.size // channels, channels))
    try:
        layers, _ = read_layers(traced.arena, State(stream), [])
    except UNREADABLE:
        return False
    return bool(layers)
