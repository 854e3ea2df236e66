"""Where a graph is divided: the accelerator computes one tensor, the host all that follows.

Every path from the input to the output must pass through that tensor (where it does not, see
``boundary``), and the accelerator must be
able to deliver it: tokens of the residual stream, perhaps behind a LayerNorm, one linear layer, or
both. The stream itself is cut behind the last layer or, if there is no other cut, in front of a
layer that the accelerator does not take: the host has that layer and all that follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import onnx

from moesaic.compiler import ir
from moesaic.compiler.frontend.nodes import describe, reads
from moesaic.compiler.frontend.read import State
from moesaic.compiler.frontend.recognise import (
    LAYER,
    is_embedding,
    read_embedding,
    read_layers,
)
from moesaic.compiler.frontend.taps import Tap, last_state, place_heads, read_taps
from moesaic.compiler.frontend.trace import Trace
from moesaic.compiler.frontend.views import Norm, NotRecognised, Sum, TooLarge, View

LAYER_OF = "the layer that"
"""How it begins that a layer has an operator that is not taken."""
_LAYERS = LAYER, LAYER_OF
UNREADABLE = (
    NotRecognised,
    AssertionError,
    ArithmeticError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What recognition raises; all but the first where it meets something nobody thought of."""
MOST_TOO_LARGE = 3
"""Cuts that are tried although a bound of the work was reached in front of each."""


@dataclass
class Backbone:
    """What the accelerator does up to the tensors of its heads."""

    embed: ir.Embed | ir.Tokens
    layers: list[ir.Layer]
    heads: list[ir.Head]
    states: list[State]
    """The residual stream before the first layer and behind each, as ``read_layers`` has it."""
    obstacle: str = ""
    """Why the layer behind is not taken, if one follows."""


def is_data(traced: Trace, name: str) -> bool:
    """Say whether a tensor depends on the input's values, and not on its shape alone."""
    return name not in traced.values or isinstance(traced.values[name], View)


def common_tensors(traced: Trace, output: str) -> list[str]:
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
            if is_data(traced, name):
                parent[name], depth[name] = meeting, depth[meeting] + 1
    name = output
    result = []
    while name in depth:
        result.append(name)
        if name == graph.input_name:
            break
        name = parent[name]
    return result


def find_cut(traced: Trace, output: str) -> Backbone:
    """Return the backbone up to one tensor that leaves the least of an output to the host.

    Raises
    ------
    NotRecognised
        There is none; the message names the node that is in the way.
    """
    arena = traced.arena
    first: dict[bool, Exception] = {}
    """What is wrong in front of the nearest head, by whether it reads the stream itself."""
    inside: Backbone | None = None
    too_large = 0
    for name in common_tensors(traced, output):
        view = traced.values.get(name)
        if not isinstance(view, View):
            continue
        try:
            taps = read_taps(arena, {name: view})
        except UNREADABLE:
            continue
        try:
            layers, states = read_layers(arena, last_state(arena, taps))
            (head,) = place_heads(taps, states, layers)
            goes_on = head.norm.plain and _goes_on(traced, name)
            if goes_on and (inside is not None or not layers):
                continue
            if not layers:
                raise NotRecognised(f"no transformer layer lies in front of {head.norm.name!r}")
            embed = read_embedding(arena, states[0], traced.source)
        except UNREADABLE as error:
            first.setdefault(is_plain(taps), error)
            too_large += isinstance(error, TooLarge)
            if too_large == MOST_TOO_LARGE:
                raise
            continue
        found = Backbone(embed, layers, [head], states)
        if not goes_on:
            return found
        inside = found
    reason = _reason(traced, output, first)
    if inside is None or not reason.startswith(_LAYERS):
        raise NotRecognised(reason)
    inside.obstacle = reason
    return inside


def _reason(traced: Trace, output: str, first: dict[bool, Exception]) -> str:
    """Say what is in the way of a cut behind the last layer."""
    reasons = [str(first[plain]) for plain in (False, True) if plain in first]
    # What is wrong with a layer tells more than what a head is not.
    reasons.sort(key=lambda reason: not reason.startswith(LAYER))
    joins = _joins(traced, output)
    if joins and not (reasons and (False in first or reasons[0].startswith(LAYER))):
        return joins
    return reasons[0] if reasons else _obstacle(traced, output)


def is_plain(taps: Iterable[Tap]) -> bool:
    """Say whether a tap reads the stream as it is."""
    return any(tap.head is not None and tap.head.norm.plain for tap in taps)


SUMS = ("Add", "Sub", "Sum", "Gemm", "SkipLayerNormalization")


def _goes_on(traced: Trace, tensor: str) -> bool:
    """Say whether something is added to values of the residual stream behind ``tensor``, in
    whatever order or shape: a layer that is not taken, or a head that looks like one."""
    stream = traced.values[tensor]
    assert isinstance(stream, View)
    source = traced.arena.source_of(stream.reshape(-1))

    def of_stream(name: str) -> bool:
        value = traced.values.get(name)
        return isinstance(value, View) and source in traced.arena.sources_of(value)

    for node in traced.graph.nodes:
        read = [name for name in reads(node) if is_data(traced, name)]
        if node.op_type in SUMS and len(read) > 1 and any(map(of_stream, read)):
            return True
    return False


def _obstacle(traced: Trace, output: str) -> str:
    """Say what is in the way of every cut."""
    refused = next(iter(traced.refused.values()), None)
    if refused is not None and not any(isinstance(s, Norm) for s in traced.arena.sources):
        return (
            f"no transformer layer lies in front of {refused.node}, which the accelerator does "
            f"not take ({refused.reason})"
        )
    return f"no LayerNorm of tokens lies in front of output {output!r}"


def _joins(traced: Trace, output: str) -> str | None:
    """Name the node that joins several results of the backbone, if one does."""
    makers = {name: node for node in traced.graph.nodes for name in node.output}

    def label(name: str) -> str:
        return describe(makers[name]) if name in makers else traced.source.node

    for behind, before in pairwise(common_tensors(traced, output)):
        view = traced.values.get(before)
        stream = isinstance(view, View) and _is_stream(traced, view)
        if not stream and before != traced.graph.input_name:
            continue
        joined = dict.fromkeys(n for n in reads(makers[behind]) if is_data(traced, n))
        if stream and makers[behind].op_type in SUMS and (why := _refused(traced, makers, joined)):
            return f"{LAYER_OF} {label(behind)} adds to the residual stream holds {why}"
        if len(joined) > 1:
            names = " and ".join(label(name) for name in list(joined)[:2])
            return (
                f"{label(behind)} joins the results of {names}, but the accelerator delivers one "
                "tensor: let the head read the stream, or one LayerNorm, behind the last layer"
            )
        if stream:
            return None
    return None


def _refused(
    traced: Trace, makers: Mapping[str, onnx.NodeProto], names: Iterable[str]
) -> str | None:
    """Name the first node that is not taken among those that tensors without a view come from."""
    seen: set[str] = set()
    waiting = [name for name in names if name not in traced.values]
    while waiting:
        name = waiting.pop()
        if name in makers and name not in seen:
            seen.update(makers[name].output)
            waiting += [n for n in reads(makers[name]) if n not in traced.values]
    for name, refusal in traced.refused.items():
        if name in seen:
            return f"{refusal.node}, which the accelerator does not take ({refusal.reason})"
    return None


def _is_stream(traced: Trace, view: View) -> bool:
    """Say whether a value is the residual stream behind some layer, or the first one."""
    arena = traced.arena
    if is_embedding(arena, view):
        return True
    sources = arena.sources_of(view)
    norms = [source for source in arena.sources if isinstance(source, Norm)]
    if not norms:
        return False
    channels = norms[-1].rows.shape[1]
    if len(sources) != 1 or not isinstance(sources[0], Sum) or sources[0].size % channels:
        return False
    try:
        stream = arena.view(sources[0], (sources[0].size // channels, channels))
        layers, _ = read_layers(arena, State(stream))
    except UNREADABLE:
        return False
    return bool(layers)
