"""Refuses models that no schedule can place on an architecture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.lists import Routing
from moesaic.compiler.schedule.options import MOST_HEADS
from moesaic.compiler.schedule.spill import PLACES, can_spill
from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.constants import angle_words
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import (
    IntAttention,
    IntDense,
    IntEmbed,
    IntGraph,
    IntLayer,
    IntLinear,
    IntMoe,
    IntRenorm,
)
from moesaic.spec.lists import listed

WAY_OUT = "; use a larger target: `moesaic explore` searches one for a part"
Rule = tuple[str, int, int]
"""What is needed and what is there, with two gaps for the numbers; both numbers."""


def check_capacity(work: IntGraph | Joint, arch: ArchConfig) -> None:
    """Compare what ``work`` needs at least with what ``arch`` has.

    Raises
    ------
    UserError
        Something is too small; both numbers are named. Or a layer has nothing to compute.
    """
    joint = Joint.of(work)
    for where, size in _sizes(joint.graph):
        if size < 1:
            raise UserError(f"the model has nothing to compute: {where} must be 1 at least")
    if joint.streams > 1 and listed(joint.graph):
        raise UserError(
            "frames of a model that works on some of its tokens can't be computed together: compile"
            " single frames"
        )
    for rule, needed, available in _rules(joint, arch):
        if needed > available:
            raise UserError(
                f"the model does not fit target {arch.name}:"
                f"{joint.words}"
                f" {rule.format(needed, available)}"
                f"{WAY_OUT}"
            )


def _most(opcode: isa.Opcode, field: str) -> int:
    """The largest value of an instruction's field."""
    return (1 << isa.positions(opcode)[field][1]) - 1


def _rules(joint: Joint, arch: ArchConfig) -> Iterator[Rule]:
    graph = joint.graph
    residual_words = layout.words(graph.channels, arch.lanes)
    key_tiles = layout.words(graph.tokens, arch.width)
    angles = sum(angle_words(graph, arch).values())
    beside = " and the angles of its rotary embeddings" if angles else ""
    if can_spill(joint):
        yield (
            f"two rows of its residual stream{beside} need {{}} words, the residual scratchpad"
            " has {} (residual_bytes)",
            min(joint.tokens, PLACES) * residual_words + angles,
            arch.residual_words,
        )
    else:
        yield (
            f"its residual stream{beside} need{'' if angles else 's'} {{}} words, the residual"
            " scratchpad has {} (residual_bytes)",
            joint.tokens * residual_words + angles,
            arch.residual_words,
        )
    yield (
        f"the keys and values{' of one head' if can_spill(joint) else ''} need {{}} words beside"
        " each other, the activation scratchpad has {} (activation_bytes)",
        max(
            (
                joint.streams_at(index) * resident_words(layer, joint, arch, MOST_HEADS)
                for index, layer in enumerate(graph.layers)
            ),
            default=0,
        ),
        arch.activation_words,
    )
    yield (
        "a row of scores takes {} accumulator rows, a bank has {}",
        key_tiles,
        arch.accumulator_rows,
    )
    yield (
        "a head of it reads {} rows, an accumulator bank has {}",
        max(head.rows for other in joint.graphs for head in other.heads),
        arch.accumulator_rows,
    )
    yield (
        "its {} tokens exceed the {} rows of an instruction",
        max(graph.tokens, graph.gather.shape[0]),
        _most(isa.Opcode.MATMUL, "stationary_rows"),
    )
    yield (
        "its {} channels exceed the {} of a normalisation",
        graph.channels,
        _most(isa.Opcode.NORM, "channels"),
    )
    for routing in Routing.all(graph, arch):
        yield from _list_rules(graph, routing, arch)
    for index, layer in enumerate(graph.layers):
        match layer:
            case IntMoe():
                yield from _moe_rules(layer, joint.streams_at(index) * graph.tokens, arch)
            case IntAttention() | IntDense() | IntRenorm():
                pass
            case _:
                assert_never(layer)


def resident_words(layer: IntLayer, joint: Joint, arch: ArchConfig, head_groups: int) -> int:
    """Activation words that a layer needs of all tokens of a stream at a time, whatever else the
    schedule says: the keys and values of a group of heads."""
    if not isinstance(layer, IntAttention):
        return 0
    keys = layout.words(layer.head_dim, arch.depth)
    if layer.rotary is not None:
        keys = layout.words(len(layout.rotary_columns(arch, layer.rotary.pairs)), arch.depth)
    values = layout.words(layer.value_dim, arch.depth)
    heads = layout.words(layer.heads, head_groups if can_spill(joint) else 1)
    return joint.graph.tokens * (keys + values) * heads


def _moe_rules(layer: IntMoe, tokens: int, arch: ArchConfig) -> Iterator[Rule]:
    experts = len(layer.experts)
    where = f"layer {layer.name}"
    yield where + " has {} experts, the router holds {}", experts, arch.max_experts
    yield (
        where + " chooses {} experts for a token, the router at most {}",
        layer.top_k,
        min(experts, _most(isa.Opcode.ROUTE, "top_k")),
    )
    yield (
        where + " may choose an expert for all {} tokens, an accumulator bank has {} rows",
        tokens,
        arch.accumulator_rows,
    )
    yield from _route_rules(where, experts, tokens, arch)


def _list_rules(graph: IntGraph, routing: Routing, arch: ArchConfig) -> Iterator[Rule]:
    for number, rows in zip(routing.layers, routing.rows, strict=False):
        yield (
            f"layer {graph.layers[number].name} works on {{}} tokens that do not follow one"
            " another, an accumulator bank has {} rows",
            rows,
            arch.accumulator_rows,
        )
    where = f"layer {graph.layers[routing.layers[0]].name}"
    queues = len(routing.rows)
    yield where + " needs {} queues for its tokens, the router holds {}", queues, arch.max_experts
    yield from _route_rules(where, queues, graph.tokens, arch)


def _route_rules(where: str, experts: int, tokens: int, arch: ArchConfig) -> Iterator[Rule]:
    logit_blocks = layout.words(experts, arch.width)
    yield where + " routes {} tokens, the router holds {}", tokens, arch.max_tokens
    yield (
        where + " needs {} accumulator rows for its logits, a bank has {}",
        logit_blocks * tokens,
        arch.accumulator_rows,
    )
    yield (
        where + " needs {} parameter blocks for its logits, there are {}",
        logit_blocks,
        arch.parameter_blocks,
    )


def _sizes(graph: IntGraph) -> Iterator[tuple[str, int]]:
    """Sizes that no instruction can have as zero."""
    yield "its tokens", graph.tokens
    yield "its patches", graph.gather.shape[0]
    for head in graph.heads:
        yield f"the rows of output {head.name}", head.rows
    for layer in graph.layers:
        if isinstance(layer, IntMoe):
            yield f"the experts of layer {layer.name}", len(layer.experts)
            yield f"the experts that layer {layer.name} chooses", layer.top_k
    for where, linear in _linears(graph):
        yield f"the inputs of a linear layer in {where}", linear.inputs
        yield f"the outputs of a linear layer in {where}", linear.outputs


def _linears(graph: IntGraph) -> Iterator[tuple[str, IntLinear]]:
    """Every linear layer and where it is."""
    if isinstance(graph.embed, IntEmbed):
        yield "the embedding", graph.embed.linear
    for layer in graph.layers:
        where = f"layer {layer.name}"
        match layer:
            case IntAttention():
                for linear in (layer.query, layer.key, layer.value, layer.output):
                    yield where, linear
            case IntDense():
                yield where, layer.mlp.up
                yield where, layer.mlp.down
            case IntMoe():
                yield where, layer.gate
                for expert in layer.experts:
                    yield where, expert.up
                    yield where, expert.down
            case IntRenorm():
                for linear in layer.linears:
                    yield where, linear
            case _:
                assert_never(layer)
    for head in graph.heads:
        yield f"the head of output {head.name}", head.linear
