"""Which parts go to the host without being asked for: those that hardly compute."""

from __future__ import annotations

from typing import assert_never

from moesaic.compiler import ir
from moesaic.compiler.frontend.cut import Backbone
from moesaic.compiler.frontend.operators import Note

MOST_SHARE = 0.01
"""Of a frame's multiply-accumulates: a larger part is left to the host by ``--partition`` only."""


def host_share(backbone: Backbone, *hosts: ir.HostPart | ir.HostFront | None) -> float | None:
    """Return the host's share of a frame's multiply-accumulates, or more; None if it is not known.

    Of the backbone only products with weights count, as long as routing is not known with the
    smallest experts: its share is that or more.
    """
    total = 0
    for host in hosts:
        if host is not None:
            if host.macs is None:
                return None
            total += host.macs
    return total / (total + _weight_macs(backbone))


def describe_tail(host: ir.HostPart, share: float) -> list[Note]:
    """Return the notes that say what goes to the host, why, and how little it is."""
    products = f"at most {share:.2%} of the" if host.macs else "no"
    first, *_ = host.nodes
    what = f"on the host without --partition, with {products} multiply-accumulates"
    what += f" ({first.reason})"
    return [(what, f"node {node.name!r} ({node.operator})") for node in host.nodes]


def _weight_macs(backbone: Backbone) -> int:
    tokens = backbone.embed.tokens

    def linear(*layers: ir.Linear) -> int:
        return sum(tokens * layer.weight.size for layer in layers)

    def one(layer: ir.Layer) -> int:
        match layer:
            case ir.Attention():
                return linear(layer.query, layer.key, layer.value, layer.output)
            case ir.Mlp():
                rows = tokens if layer.tokens is None else len(layer.tokens)
                return linear(*layer.linears) * rows // tokens
            case ir.Moe():
                smallest = min((linear(*e.linears) for e in layer.experts), default=0)
                return linear(layer.gate) + layer.top_k * smallest
            case ir.Renorm():
                return 0  # the file has no product
            case _:
                assert_never(layer)

    embed = backbone.embed
    ends = len(embed.gather) * embed.linear.weight.size if isinstance(embed, ir.Embed) else 0
    ends += sum(head.rows * head.linear.weight.size for head in backbone.heads)
    return ends + sum(one(layer) for layer in backbone.layers)
