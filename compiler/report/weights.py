"""What a report says of weights: bits and bytes of each layer."""

from __future__ import annotations

from typing import Any

from moesaic.spec.graph_sizes import parts
from moesaic.spec.intgraph import IntEmbed, IntGraph
from moesaic.spec.weight_sizes import weight_sizes


def stored_weights(graph: IntGraph) -> dict[str, dict[str, Any]]:
    """By name of a layer, ``embed`` and the heads among them: which ``bits`` occur in it, and the
    ``bytes`` of its codes as they are stored, padding left out."""
    everything = parts(graph.embed, graph.layers, graph.heads)
    found: dict[str, dict[str, Any]] = {}
    for part, sizes in zip(everything, weight_sizes(graph), strict=True):
        if not sizes.bits:
            continue
        name = "embed" if isinstance(part, IntEmbed) else getattr(part, "name", "")
        of_name = found.setdefault(name, {"bits": [], "bytes": 0})
        of_name["bits"] = sorted({*of_name["bits"], *sizes.bits})
        of_name["bytes"] += sizes.size_bytes
    return found
