"""Sizes of an integer graph: its parts in order, their multiply-accumulates, its widest tensor."""

from __future__ import annotations

from moesaic.spec.exhaustive import unreachable
from moesaic.spec.intgraph import (
    IntAttention,
    IntDense,
    IntEmbed,
    IntGraph,
    IntHead,
    IntLayer,
    IntLinear,
    IntMoe,
    IntRenorm,
    IntTokens,
)


def frame_values(graph: IntGraph) -> int:
    """Values of the widest tensor that a frame needs: scores, projections, or hidden rows."""
    widths = [graph.channels, graph.gather.shape[1]]
    widths += [head.linear.outputs for head in graph.heads]
    for layer in graph.layers:
        match layer:
            case IntAttention():
                projected = layer.query.outputs + layer.key.outputs + layer.value.outputs
                widths += [layer.heads * graph.tokens, projected]
            case IntDense():
                widths.append(layer.mlp.up.outputs)
            case IntMoe():
                hidden = max(expert.up.outputs for expert in layer.experts)
                widths.append(layer.top_k * max(hidden, graph.channels))
            case IntRenorm():
                pass
            case _:
                unreachable(layer)
    return graph.tokens * max(widths)


Part = IntEmbed | IntTokens | IntLayer | IntHead


def parts(
    embed: IntEmbed | IntTokens, layers: tuple[IntLayer, ...], heads: tuple[IntHead, ...]
) -> list[Part]:
    """Everything in the order in which it is computed, each with a number of its own: instructions,
    profiles and estimates count like this; heads come as soon as the stream is there."""
    result: list[Part] = [embed]
    for depth in range(len(layers) + 1):
        result += [head for head in heads if head.depth == depth]
        result += layers[depth : depth + 1]
    return result


def part_macs(
    embed: IntEmbed | IntTokens,
    layers: tuple[IntLayer, ...],
    heads: tuple[IntHead, ...],
    patches: int,
) -> list[int]:
    """MACs of one frame of the pure model, in the order of :func:`parts`."""

    def linear(layer: IntLinear, rows: int) -> int:
        return rows * layer.outputs * layer.inputs

    def one(part: Part) -> int:
        match part:
            case IntEmbed():
                return linear(part.linear, patches)
            case IntTokens():
                return 0
            case IntHead():
                return linear(part.linear, part.rows)
            case IntAttention():
                each = (part.query, part.key, part.value, part.output)
                products = part.heads * tokens * tokens * (part.head_dim + part.value_dim)
                return sum(linear(layer, tokens) for layer in each) + products
            case IntDense():
                rows = part.row_count(tokens)
                return linear(part.mlp.up, rows) + linear(part.mlp.down, rows)
            case IntMoe():
                costs = [linear(e.up, tokens) + linear(e.down, tokens) for e in part.experts]
                # Experts of different widths count with their mean: routing is not known here.
                mean = part.top_k * sum(costs) // max(1, len(costs))
                return linear(part.gate, tokens) + mean
            case IntRenorm():
                return 0  # the model has a norm there, and no product
            case _:
                unreachable(part)

    tokens = embed.tokens
    return [one(part) for part in parts(embed, layers, heads)]


def count_macs(
    embed: IntEmbed | IntTokens,
    layers: tuple[IntLayer, ...],
    heads: tuple[IntHead, ...],
    patches: int,
) -> int:
    """MACs of one frame of the pure model."""
    return sum(part_macs(embed, layers, heads, patches))
