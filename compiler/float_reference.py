"""`ir.Graph` in float64: the yardstick of calibration and quantisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from moesaic.compiler import ir

Observe = Callable[[str, Tensor], None]


def _real(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float64))


def fold_norm(norm: ir.Norm, linear: ir.Linear) -> tuple[Tensor, Tensor]:
    """Return float64 weight and bias of ``linear(gamma * y + beta)`` as a function of y."""
    weight = _real(linear.weight)
    bias = _real(linear.bias) + weight @ _real(norm.beta)
    return weight * _real(norm.gamma), bias


def _normalise(norm: ir.Norm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + norm.epsilon)


def _folded(norm: ir.Norm, linear: ir.Linear, y: Tensor) -> Tensor:
    weight, bias = fold_norm(norm, linear)
    return y @ weight.T + bias


def _linear(linear: ir.Linear, x: Tensor) -> Tensor:
    return x @ _real(linear.weight).T + _real(linear.bias)


def choose_experts(moe: ir.Moe, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return gate weights and expert numbers [..., top_k], largest first, ties to the lower."""
    ordered, index = torch.sort(logits, dim=-1, descending=True, stable=True)
    ordered, index = ordered[..., : moe.top_k], index[..., : moe.top_k]
    if moe.renormalise:
        return ordered.softmax(-1), index
    return torch.exp(ordered - torch.logsumexp(logits, -1, keepdim=True)), index


def _attention(layer: ir.Attention, y: Tensor, point: str, observe: Observe) -> Tensor:
    def heads(name: str, linear: ir.Linear, width: int) -> Tensor:
        value = _folded(layer.norm, linear, y)
        observe(f"{point}.{name}", value)
        return value.unflatten(-1, (layer.heads, width)).transpose(1, 2)

    query = heads("query", layer.query, layer.head_dim)
    key = heads("key", layer.key, layer.head_dim)
    value = heads("value", layer.value, layer.value_dim)
    scores = query @ key.transpose(-1, -2) * layer.scale
    observe(f"{point}.scores", scores)
    context = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    observe(f"{point}.attention", context)
    return _linear(layer.output, context)


def _mlp(layer: ir.Mlp, y: Tensor, point: str, observe: Observe) -> Tensor:
    hidden = F.gelu(_folded(layer.norm, layer.up, y))
    observe(f"{point}.hidden", hidden)
    return _linear(layer.down, hidden)


def _moe(layer: ir.Moe, y: Tensor, point: str, observe: Observe) -> Tensor:
    logits = _folded(layer.norm, layer.gate, y)
    observe(f"{point}.logits", logits)
    weights, index = choose_experts(layer, logits)
    total = torch.zeros_like(y)
    for e, expert in enumerate(layer.experts):
        sample, token, slot = torch.where(index == e)
        if len(sample):  # an expert without tokens has nothing to observe
            result = _mlp(expert, y[sample, token], f"{point}.expert{e}", observe)
            total[sample, token] += weights[sample, token, slot, None] * result
    return total


def run_float(
    graph: ir.Graph, x: NDArray[np.floating], observe: Observe | None = None
) -> NDArray[np.float64]:
    """Run a graph in float64.

    Parameters
    ----------
    graph
        What `load_graph` returns.
    x
        Samples on the leading axis: [samples, *graph.input_shape[1:]], or with the batch axis
        of 1 kept, [samples, *graph.input_shape].
    observe
        Called as ``observe(point, tensor)`` for `input` [samples, rows, inputs]; `residual`
        [samples, tokens, channels], first and after each layer; for layer i `{i}.norm` (before
        gamma and beta, which are folded into the next linear layers), `{i}.query`, `{i}.key`,
        `{i}.value`, `{i}.scores` [samples, heads, tokens, tokens] (scaled), `{i}.attention`,
        `{i}.hidden`, `{i}.logits`, `{i}.expert{e}.hidden` [routed tokens, hidden]; `head.norm`
        and `output` [samples, rows, outputs], before the output layout.

    Returns
    -------
    NDArray
        [samples, *graph.output_shape[1:]] (the whole output shape if its first axis is not 1).
    """
    note: Observe = observe or (lambda point, tensor: None)
    samples = np.asarray(x, np.float64).reshape(-1, int(np.prod(graph.input_shape)))
    embed, head = graph.embed, graph.head
    with torch.no_grad():
        patches = torch.from_numpy(samples[:, embed.gather])
        note("input", patches)
        state = _real(embed.initial).repeat(len(samples), 1, 1)
        rows = slice(embed.first_row, embed.first_row + embed.gather.shape[0])
        state[:, rows] += _linear(embed.linear, patches)
        note("residual", state)
        for i, layer in enumerate(graph.layers):
            y = _normalise(layer.norm, state)
            note(f"{i}.norm", y)
            match layer:
                case ir.Attention():
                    state = state + _attention(layer, y, str(i), note)
                case ir.Mlp():
                    state = state + _mlp(layer, y, str(i), note)
                case ir.Moe():
                    state = state + _moe(layer, y, str(i), note)
                case _:
                    assert_never(layer)
            note("residual", state)
        y = _normalise(head.norm, state[:, head.first_row : head.first_row + head.rows])
        note("head.norm", y)
        result = _folded(head.norm, head.linear, y)
        note("output", result)
        laid_out = result.flatten(1)[:, torch.from_numpy(head.permutation)].numpy()
    shape = graph.output_shape[1:] if graph.output_shape[:1] == (1,) else graph.output_shape
    return laid_out.reshape(len(samples), *shape)
