"""Bits and bytes of the weights of a graph, part by part."""

from __future__ import annotations

from dataclasses import dataclass

from moesaic.spec.graph_sizes import parts
from moesaic.spec.graphcheck import linears
from moesaic.spec.intgraph import IntGraph, IntHead


@dataclass(frozen=True)
class WeightSizes:
    """Of one part: which bits occur in it, ascending, and bytes of its codes as they are stored,
    padding left out."""

    bits: tuple[int, ...] = ()
    size_bytes: int = 0


def weight_sizes(graph: IntGraph) -> list[WeightSizes]:
    """Of embedding, layers and heads, in the order of :func:`~moesaic.spec.graph_sizes.parts`."""
    found: dict[str, WeightSizes] = {}
    for where, linear, *_ in linears(graph):
        place, _, _ = where.partition(".")
        known = found.get(place, WeightSizes())
        bits = tuple(sorted({*known.bits, linear.weight_bits}))
        size = known.size_bytes + linear.weight.size * linear.weight_bits // 8
        found[place] = WeightSizes(bits, size)
    return [found.get(place, WeightSizes()) for place in _places(graph)]


def _places(graph: IntGraph) -> list[str]:
    """How :func:`~moesaic.spec.graphcheck.linears` calls each part."""
    places, layers = [], 0
    heads = [id(head) for head in graph.heads]
    for part in parts(graph.embed, graph.layers, graph.heads):
        if isinstance(part, IntHead):
            places.append(f"heads[{heads.index(id(part))}]")
        elif part is graph.embed:
            places.append("embed")
        else:
            places.append(f"layers[{layers}]")
            layers += 1
    return places
