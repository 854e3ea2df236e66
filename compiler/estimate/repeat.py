"""A deeper model from a file of its first blocks: what is too large to export can be estimated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from moesaic.compiler import ir
from moesaic.spec.errors import UserError


@dataclass(frozen=True)
class Blocks:
    """How many equal blocks a file has, and how many are meant."""

    held: int
    wanted: int

    @classmethod
    def read(cls, text: str) -> Blocks:
        """``2:12``.

        Raises
        ------
        UserError
            It is no such pair, or less is meant than the file has.
        """
        held, _, wanted = text.partition(":")
        if held.isdecimal() and wanted.isdecimal() and 2 <= int(held) <= int(wanted):
            return cls(int(held), int(wanted))
        raise UserError(
            f"--blocks takes how many blocks the file has, 2 or more, and how many are meant, as"
            f" 2:12, not {text!r}"
        )


def repeat_blocks(graph: ir.Graph, blocks: Blocks) -> ir.Graph:
    """A graph whose last block comes again until it has as many as wanted.

    Weights are shared: it is for :func:`~moesaic.compiler.estimate.shapes.shape_graph`.

    Raises
    ------
    UserError
        Its last layers are not that many equal blocks.
    """
    forms = [_form(layer) for layer in graph.layers]
    for period in range(len(forms) // blocks.held, 0, -1):
        last = forms[-period:]
        if forms[-blocks.held * period :] == last * blocks.held:
            more = graph.layers[-period:] * (blocks.wanted - blocks.held)
            heads = [  # those behind the last layer stay there
                replace(head, depth=head.depth + len(more) * (head.depth == len(graph.layers)))
                for head in graph.heads
            ]
            return replace(graph, layers=[*graph.layers, *more], heads=heads)
    raise UserError(
        f"the last layers of {graph.source} must be {blocks.held} blocks of equal sizes for"
        " --blocks, but are not: give a file of the whole model"
    )


def _form(layer: ir.Layer) -> object:
    """Equal for layers that lower to equal steps."""
    match layer:
        case ir.Attention():
            linears = [layer.query, layer.key, layer.value, layer.output]
            sizes: object = (layer.heads, layer.head_dim, layer.value_dim)
        case ir.Mlp():
            linears = layer.linears
            tokens = None if layer.tokens is None else tuple(layer.tokens)
            sizes = (layer.activation, layer.factor is None, tokens)
        case ir.Moe():
            linears = [layer.gate, *(part for expert in layer.experts for part in expert.linears)]
            sizes = (layer.top_k, layer.renormalise, layer.sigmoid)
        case ir.Renorm():
            linears, sizes = [layer.linear], None
        case _:
            assert_never(layer)
    shapes = tuple(linear.weight.shape for linear in linears)
    return type(layer), layer.parallel, layer.norm.plain, sizes, shapes
