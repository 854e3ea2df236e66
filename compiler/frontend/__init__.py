"""ONNX in, `ir.Graph` out: see `load_graph`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from moesaic.compiler import ir
from moesaic.compiler.frontend.boundary import find_boundary
from moesaic.compiler.frontend.cut import UNREADABLE, Backbone
from moesaic.compiler.frontend.front import Front, describe_front, extract_front, find_front
from moesaic.compiler.frontend.given import NO_INTEGERS
from moesaic.compiler.frontend.host_part import extract_host_part
from moesaic.compiler.frontend.load import read_model
from moesaic.compiler.frontend.modules import name_layers
from moesaic.compiler.frontend.nodes import describe, node_name
from moesaic.compiler.frontend.operators import Note
from moesaic.compiler.frontend.recognise import read_embedding, read_layers
from moesaic.compiler.frontend.streams import find_streams
from moesaic.compiler.frontend.tail import MOST_SHARE, describe_tail, host_share
from moesaic.compiler.frontend.taps import last_state, place_heads, read_taps
from moesaic.compiler.frontend.trace import Trace, trace
from moesaic.compiler.frontend.views import NotRecognised
from moesaic.compiler.verify import verify
from moesaic.spec.errors import UserError


def load_graph(
    path: str | Path,
    task: str = "default",
    partition: bool | None = None,
    choice: ir.Choice | None = None,
) -> ir.Graph:
    """Read a vision transformer from an ONNX file.

    What is recognised depends on what the graph computes, not on names or on how an exporter
    writes it: layout operators in any order, constants on either side, GELU and LayerNorm as
    nodes or as arithmetic, mixtures of experts as a loop over experts or as com.microsoft.MoE.

    Parameters
    ----------
    path
        ONNX file of opset 7 or newer; external data beside it.
    task
        Name of the task, for messages.
    partition
        Leave what follows the transformer layers to the host (``Graph.host``) where the
        accelerator does not take it. A model that it takes whole stays whole. None: if that is
        less than 1 % of the multiply-accumulates.
    choice
        Of some of its outputs, and numbers for symbolic dimensions.

    Raises
    ------
    UserError
        The file is no such model; the message names the node, input or initializer.
    """
    traced = trace(read_model(path, choice))
    try:
        return _graph(traced, _read_whole(traced, f"task {task!r}, {path}"))
    except UserError as error:
        refusal = error
    try:
        backbone = find_boundary(traced)
        tensors = [head.tensor for head in backbone.heads]
        host = extract_host_part(traced, tensors, backbone.obstacle)
    except NotRecognised as error:
        front = find_front(traced)
        if front is not None:
            # Of a head that the host takes anyway a refusal says nothing of the front.
            why = str(error) if front.tail is not None else _without_advice(traced, str(refusal))
            return _fronted(traced, front, f"task {task!r}, {path}", partition, refusal, why)
        if partition:
            raise UserError(
                f"task {task!r}, {path}: --partition finds no cut: {error}; nor is there a residual"
                " stream [1, tokens, channels] from which on the accelerator takes every layer"
            ) from error
        raise refusal from None
    share = host_share(backbone, host)
    tail: list[Note] = []
    small = share is not None and share < MOST_SHARE and not backbone.obstacle
    if partition is None and small:
        assert share is not None
        tail = describe_tail(host, share)
    elif not partition:
        raise UserError(
            f"{refusal}; compile with --partition to leave all nodes from "
            f"{host.nodes[0].name!r} on to the host"
        ) from refusal
    return _graph(traced, backbone, host, tail)


def _without_advice(traced: Trace, sentence: str) -> str:
    """What a sentence says of a node, but not what to do about it: that has been done."""
    reasons = {of.sentence: f"{of.node}: {of.reason}" for of in traced.refused.values()}
    return reasons.get(sentence, sentence)


def _fronted(
    whole: Trace,
    found: Front,
    task: str,
    partition: bool | None,
    refusal: UserError,
    why: str,
) -> ir.Graph:
    """The graph behind a front that the host computes, because of ``why``."""
    try:
        path = whole.graph.path  # of this machine: a bundle tells the name alone
        front = extract_front(whole, found, why.replace(path, Path(path).name))
    except NotRecognised as error:
        if partition:
            raise UserError(f"{task}: --partition finds no cut: {error}") from error
        raise refusal from None
    share = host_share(found.backbone, front, found.tail)
    notes: list[Note] = []
    if partition is None and share is not None and share < MOST_SHARE:
        notes = describe_front(front, share)
        if found.tail is not None:
            notes += describe_tail(found.tail, share)
    elif not partition:
        raise UserError(
            f"{refusal}; compile with --partition to leave all nodes up to"
            f" {front.nodes[-1].name!r} to the host"
        ) from refusal
    graph = _graph(found.traced, found.backbone, found.tail, notes)
    graph.front = front
    return graph


def _read_whole(traced: Trace, task: str) -> Backbone:
    """Read a graph that the accelerator computes up to the outputs."""
    arena = traced.arena
    outputs = traced.outputs()
    where = f"{task}: head"
    try:
        taps = read_taps(arena, outputs)
        state = last_state(arena, taps)
        where = task
        layers, states = read_layers(arena, state)
        where = f"{task}: head"
        heads = place_heads(taps, states, layers)
        where = f"{task}: patch embedding"
        embed = read_embedding(arena, states[0], traced.source)
    except NotRecognised as error:
        raise UserError(f"{where}: {error}") from error
    except UNREADABLE as error:
        # Recognition met something nobody thought of: still no traceback for the user.
        raise UserError(
            f"{where}: the graph is no vision transformer that is supported ({error!r}): "
            "compare it with the reference model's export"
        ) from error
    return Backbone(embed, layers, heads, states)


def _graph(
    traced: Trace,
    backbone: Backbone,
    host: ir.HostPart | None = None,
    tail: Sequence[Note] = (),
) -> ir.Graph:
    elsewhere = {node.name for node in host.nodes} if host else set()
    hosted = {describe(node) for node in traced.graph.nodes if node_name(node) in elsewhere}
    notes = [*traced.notes, *sorted(traced.arena.notes)]
    notes = [note for note in notes if note[1] not in hosted]
    notes = [*tail, *notes, *_quantised_anew(traced, backbone)]
    name_layers(backbone.layers, traced.graph.nodes)
    graph = ir.Graph(
        source=traced.graph.path,
        input_name=traced.graph.input_name,
        input_shape=traced.graph.input_shape,
        embed=backbone.embed,
        layers=backbone.layers,
        heads=backbone.heads,
        streams=find_streams(traced, backbone.states, backbone.layers),
        notes=_summarise(notes),
        choice=traced.graph.choice,
        host=host,
    )
    return verify(graph, "reading")


def _quantised_anew(traced: Trace, backbone: Backbone) -> list[Note]:
    """Note the layers of a quantised file whose weights are no integers times a scale per row."""
    if not traced.graph.quantisation.weights:
        return []
    linears = [backbone.embed.linear] if isinstance(backbone.embed, ir.Embed) else []
    for layer in backbone.layers:
        match layer:
            case ir.Attention():
                linears += [layer.query, layer.key, layer.value, layer.output]
            case ir.Mlp():
                linears += layer.linears
            case ir.Moe():
                linears += [layer.gate, *(part for e in layer.experts for part in e.linears)]
            case ir.Renorm():
                pass  # a LayerNorm has no integers
            case _:
                assert_never(layer)
    for head in backbone.heads:
        if head.linear.name != head.norm.name:  # else it is the LayerNorm itself
            linears.append(head.linear)
    return [
        (NO_INTEGERS, f"node {linear.name!r}") for linear in linears if linear.given.codes is None
    ]


def _summarise(notes: list[Note]) -> list[str]:
    """Return one line per kind of note, naming the first node."""
    nodes: dict[str, list[str]] = {}
    for text, node in notes:
        nodes.setdefault(text, []).append(node)
    return [
        f"{text}: {first}" + (f" and {len(more)} more" if more else "")
        for text, (first, *more) in nodes.items()
    ]
