"""LayerNorm's gamma and beta go into the linear layers behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

import numpy as np

from moesaic.compiler import ir
from moesaic.compiler.float_reference import fold_norm
from moesaic.spec.errors import UserError


def _folded(linear: ir.Linear, norm: ir.Norm) -> ir.Linear:
    weight, bias = fold_norm(norm, linear)
    return replace(
        linear, weight=weight.numpy().astype(np.float32), bias=bias.numpy().astype(np.float32)
    )


def _plain(norm: ir.Norm) -> ir.Norm:
    return replace(norm, gamma=np.ones_like(norm.gamma), beta=np.zeros_like(norm.beta))


def _folded_mlp(mlp: ir.Mlp, norm: ir.Norm) -> ir.Mlp:
    factor = None if mlp.factor is None else _folded(mlp.factor, norm)
    return replace(mlp, norm=_plain(norm), up=_folded(mlp.up, norm), factor=factor)


def fold_norms(graph: ir.Graph) -> ir.Graph:
    """The same function with every gamma 1 and every beta 0; ``graph`` is left as it is.

    Raises
    ------
    UserError
        A weight is NaN or infinite.
    """
    _require_finite(graph)
    layers: list[ir.Layer] = []
    for layer in graph.layers:
        norm = layer.norm
        match layer:
            case ir.Attention():
                parts = (layer.query, layer.key, layer.value)
                query, key, value = (_folded(part, norm) for part in parts)
                layers.append(replace(layer, norm=_plain(norm), query=query, key=key, value=value))
            case ir.Mlp():
                layers.append(_folded_mlp(layer, norm))
            case ir.Moe():
                experts = [_folded_mlp(expert, norm) for expert in layer.experts]
                gate = _folded(layer.gate, norm)
                layers.append(replace(layer, norm=_plain(norm), gate=gate, experts=experts))
            case ir.Renorm():
                linear = _folded(layer.linear, norm)
                layers.append(replace(layer, norm=_plain(norm), linear=linear))
            case _:
                assert_never(layer)
    heads = [
        replace(head, norm=_plain(head.norm), linear=_folded(head.linear, head.norm))
        for head in graph.heads
    ]
    return replace(graph, layers=layers, heads=heads)


def _require_finite(graph: ir.Graph) -> None:
    def require(name: str, *arrays: ir.FloatArray) -> None:
        if not all(np.isfinite(array).all() for array in arrays):
            raise UserError(
                f"{graph.source}: weights of {name} must be finite, not NaN or infinite:"
                " train or export the model again"
            )

    def linear(layer: ir.Linear) -> None:
        require(layer.name, layer.weight, layer.bias)

    if isinstance(graph.embed, ir.Embed):
        require(graph.embed.name, graph.embed.initial)
        linear(graph.embed.linear)
    for layer in graph.layers:
        require(layer.norm.name, layer.norm.gamma, layer.norm.beta)
        match layer:
            case ir.Attention():
                parts = [layer.query, layer.key, layer.value, layer.output]
            case ir.Mlp():
                parts = layer.linears
            case ir.Moe():
                experts = (part for mlp in layer.experts for part in mlp.linears)
                parts = [layer.gate, *experts]
            case ir.Renorm():
                parts = [layer.linear]
            case _:
                assert_never(layer)
        for part in parts:
            linear(part)
    for head in graph.heads:
        require(head.norm.name, head.norm.gamma, head.norm.beta)
        linear(head.linear)
