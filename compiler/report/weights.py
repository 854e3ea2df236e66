"""What a report says of weights: bits and bytes of each layer."""

from __future__ import annotations

from typing import Any

from moesaic.spec.graphcheck import linears
from moesaic.spec.intgraph import IntGraph


def stored_weights(graph: IntGraph) -> dict[str, dict[str, Any]]:
    """By name of a layer, ``embed`` and the heads among them: which ``bits`` occur in it, and the
    ``bytes`` of its codes as they are stored, padding left out."""
    found: dict[str, dict[str, Any]] = {}
    for where, linear, *_ in linears(graph):
        place, _, _ = where.partition(".")
        kind, _, index = place.rstrip("]").partition("[")
        name = place
        if index:
            number = int(index)
            name = graph.layers[number].name if kind == "layers" else graph.heads[number].name
        part = found.setdefault(name, {"bits": [], "bytes": 0})
        if linear.weight_bits not in part["bits"]:
            part["bits"] = sorted([*part["bits"], linear.weight_bits])
        part["bytes"] += linear.weight.size * linear.weight_bits // 8
    return found
