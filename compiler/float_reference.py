"""`ir.Graph` in float64: the yardstick of calibration and quantisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from moesaic.compiler import ir
from moesaic.spec.intgraph import head_name

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "relu": F.relu,
    "squared_relu": lambda x: F.relu(x) ** 2,
    "hard_swish": F.hardswish,
}
"""Those of ``spec.activations`` in torch, which has them for every element type."""

Observe = Callable[[str, Tensor], Tensor | None]
"""Sees a point; a tensor that it returns takes the point's place."""
Change = Callable[[Tensor], Tensor]
"""What is made of the values at a point."""


def _seen(observe: Observe, point: str, value: Tensor) -> Tensor:
    instead = observe(point, value)
    return value if instead is None else instead


def _real(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float64))


def fold_norm(norm: ir.Norm, linear: ir.Linear) -> tuple[Tensor, Tensor]:
    """Return float64 weight and bias of ``linear(gamma * y + beta)`` as a function of y."""
    weight = _real(linear.weight)
    bias = _real(linear.bias) + weight @ _real(norm.beta)
    return weight * _real(norm.gamma), bias


def folded(norm: ir.Norm | None, linear: ir.Linear, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return transposed weight and bias of a linear layer, behind a norm's gamma and beta."""
    if norm is None:
        weight, bias = _real(linear.weight), _real(linear.bias)
    else:
        weight, bias = fold_norm(norm, linear)
    return weight.to(dtype).T, bias.to(dtype)


Fold = Callable[[ir.Norm | None, ir.Linear, torch.dtype], tuple[Tensor, Tensor]]
"""As :func:`folded`; a cached one saves time where layers run many times, and costs memory."""


def embed_patches(
    graph: ir.Graph, samples: Tensor, observe: Observe, fold: Fold = folded
) -> Tensor:
    """Return the first residual stream [samples, tokens, channels] of flat inputs."""
    embed = graph.embed
    if isinstance(embed, ir.Tokens):
        return samples[:, torch.from_numpy(embed.gather)]
    patches = samples[:, torch.from_numpy(embed.gather)]
    patches = _seen(observe, "input", patches)
    state = _real(embed.initial).to(samples.dtype).repeat(len(samples), 1, 1)
    rows = slice(embed.first_row, embed.first_row + embed.gather.shape[0])
    state[:, rows] += _apply(fold, None, embed.linear, patches)
    return state


def _normalise(norm: ir.Norm, x: Tensor) -> Tensor:
    if norm.plain:
        return x
    centred = x - x.mean(-1, keepdim=True)
    return centred.div_(torch.sqrt((centred**2).mean(-1, keepdim=True).add_(norm.epsilon)))


def _apply(fold: Fold, norm: ir.Norm | None, linear: ir.Linear, x: Tensor) -> Tensor:
    weight, bias = fold(norm, linear, x.dtype)
    return (x @ weight).add_(bias)


def choose_experts(moe: ir.Moe, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return gate weights and expert numbers [..., top_k], largest first, ties to the lower."""
    scores = logits
    if moe.corrections is not None:
        scores = logits.sigmoid() + torch.from_numpy(moe.corrections).to(logits)
    index = torch.sort(scores, dim=-1, descending=True, stable=True)[1][..., : moe.top_k]
    ordered = logits.gather(-1, index)
    if moe.renormalise and not moe.sum_epsilon and not moe.sigmoid:
        return ordered.softmax(-1), index
    if moe.sigmoid:
        weights = ordered.sigmoid()
    else:
        weights = torch.exp(ordered - torch.logsumexp(logits, -1, keepdim=True))
    if moe.renormalise:
        weights = weights / (weights.sum(-1, keepdim=True) + moe.sum_epsilon)
    return weights, index


def _attention(layer: ir.Attention, y: Tensor, point: str, observe: Observe, fold: Fold) -> Tensor:
    def heads(name: str, linear: ir.Linear, width: int) -> Tensor:
        value = _apply(fold, layer.norm, linear, y)
        if layer.rotary is not None and name != "value":
            value = _rotated(value, layer.rotary, layer.heads)
        value = _seen(observe, f"{point}.{name}", value)
        return value.unflatten(-1, (layer.heads, width)).transpose(1, 2)

    query = heads("query", layer.query, layer.head_dim)
    key = heads("key", layer.key, layer.head_dim)
    value = heads("value", layer.value, layer.value_dim)
    scores = (query @ key.transpose(-1, -2)).mul_(layer.scale)
    scores = _seen(observe, f"{point}.scores", scores)
    probability = _seen(observe, f"{point}.probability", scores.softmax(-1))
    context = (probability @ value).transpose(1, 2).flatten(2)
    return _apply(fold, None, layer.output, _seen(observe, f"{point}.attention", context))


def _rotated(x: Tensor, rotary: ir.Rotary, heads: int) -> Tensor:
    """Rows [..., tokens, channels] of queries or keys, each pair of a head's channels rotated."""
    first, second = x.unflatten(-1, (heads, 2, -1)).unbind(-2)
    cosine, sine = (_real(part).to(x.dtype)[:, None] for part in (rotary.cosine, rotary.sine))
    turned = first * cosine - second * sine, second * cosine + first * sine
    return torch.stack(turned, -2).flatten(-3)


def _mlp(layer: ir.Mlp, y: Tensor, point: str, observe: Observe, fold: Fold) -> Tensor:
    hidden = ACTIVATIONS[layer.activation](_apply(fold, layer.norm, layer.up, y))
    if layer.factor is not None:
        active = _seen(observe, f"{point}.active", hidden)
        factor = _seen(observe, f"{point}.factor", _apply(fold, layer.norm, layer.factor, y))
        hidden = active * factor
    return _apply(fold, None, layer.down, _seen(observe, f"{point}.hidden", hidden))


def _add_mlp(
    layer: ir.Mlp, state: Tensor, y: Tensor, point: str, observe: Observe, fold: Fold
) -> Tensor:
    """The stream with the layer's results in all rows, or in those of its tokens."""
    if layer.tokens is None:
        return state + _mlp(layer, y, point, observe, fold)
    mine = torch.from_numpy(layer.tokens)
    return state.index_add(1, mine, _mlp(layer, y[:, mine], point, observe, fold))


def _moe(layer: ir.Moe, y: Tensor, point: str, observe: Observe, fold: Fold) -> Tensor:
    logits = _seen(observe, f"{point}.logits", _apply(fold, layer.norm, layer.gate, y))
    weights, index = choose_experts(layer, logits)
    # A token's results are added in the order of its experts, whatever that of their weights is.
    index, slots = index.flatten(0, 1).sort(-1)
    weights = weights.flatten(0, 1).gather(-1, slots)
    tokens, rows = y.flatten(0, 1), []
    order = index.flatten().sort(stable=True).indices  # by expert, then by token
    counts = torch.bincount(index.flatten(), minlength=len(layer.experts)).tolist()
    for e, (expert, mine) in enumerate(zip(layer.experts, order.split(counts), strict=True)):
        if len(mine):  # an expert without tokens has nothing to observe
            inputs = tokens[mine.div(layer.top_k, rounding_mode="floor")]
            rows.append(_mlp(expert, inputs, f"{point}.expert{e}", observe, fold))
    results = y.new_empty(len(order), y.shape[-1])
    results[order] = torch.cat(rows) if rows else results
    results = results.unflatten(0, (-1, layer.top_k)) * weights[..., None]
    total = results[:, 0]
    for slot in range(1, layer.top_k):
        total = total + results[:, slot]
    return total.view_as(y)


def run_layers(
    layers: Sequence[ir.Layer],
    state: Tensor,
    first: int,
    observe: Observe,
    fold: Fold = folded,
    stream: str = "residual",
) -> Tensor:
    """Return the residual stream [samples, tokens, channels] behind some layers, in its own dtype.

    Parameters
    ----------
    layers
        Layers that follow one another; the first of them is parallel to none in front.
    state
        The stream in front of them.
    first
        The first one's number, for the names of points.
    observe
        As in :func:`run_float`.
    stream
        The point that the stream in front of them is.
    """
    rows = state
    streams = ir.stream_points(layers, first, stream)[1:]
    for number, (layer, point) in enumerate(zip(layers, streams, strict=True), first):
        if not layer.parallel:
            rows = _seen(observe, f"{number}.norm", _normalise(layer.norm, state))
        match layer:
            case ir.Attention():
                state = state + _attention(layer, rows, str(number), observe, fold)
            case ir.Mlp():
                state = _add_mlp(layer, state, rows, str(number), observe, fold)
            case ir.Moe():
                state = state + _moe(layer, rows, str(number), observe, fold)
            case ir.Renorm():
                state = _apply(fold, layer.norm, layer.linear, rows)
            case _:
                assert_never(layer)
        state = _seen(observe, point, state)
    return state


def run_head(
    graph: ir.Graph, number: int, state: Tensor, observe: Observe, fold: Fold = folded
) -> Tensor:
    """Return an output [samples, rows, outputs] of the stream in front of its head, in the state's
    dtype; :func:`lay_out` is to follow."""
    head = graph.heads[number]
    rows = state[:, head.first_row : head.first_row + head.rows]
    y = _seen(observe, f"{head_name(number)}.norm", _normalise(head.norm, rows))
    return _seen(observe, ir.output_point(number), _apply(fold, head.norm, head.linear, y))


def lay_out(head: ir.Head, result: Tensor) -> Tensor:
    """What :func:`run_head` gives, as the file has it: [samples, elements]."""
    return result.flatten(1)[:, torch.from_numpy(head.permutation)]


def run_rest(
    graph: ir.Graph, state: Tensor, start: int, observe: Observe, fold: Fold = folded
) -> dict[int, Tensor]:
    """Run layer ``start`` and all behind it, and the heads there.

    Parameters
    ----------
    state
        The stream [samples, tokens, channels] in front of the layer.

    Returns
    -------
    dict
        Number of a head to its output, as :func:`run_head` has it; heads in front are left out.
    """
    streams = ir.stream_points(graph.layers)
    results = {}
    for depth in sorted({head.depth for head in graph.heads if head.depth >= start}):
        layers = graph.layers[start:depth]
        state = run_layers(layers, state, start, observe, fold, streams[start])
        start = depth
        for number, head in enumerate(graph.heads):
            if head.depth == depth:
                results[number] = run_head(graph, number, state, observe, fold)
    return results


def run_outputs(
    graph: ir.Graph,
    x: NDArray[np.floating],
    observe: Observe | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, NDArray[np.floating]]:
    """Run a graph in float64 (or another ``dtype``).

    Parameters
    ----------
    graph
        What `load_graph` returns.
    x
        Samples on the leading axis: [samples, *graph.input_shape[1:]], or with the batch axis
        of 1 kept, [samples, *graph.input_shape].
    observe
        Called as ``observe(point, tensor)`` for `input` [samples, rows, inputs]; `residual`
        [samples, tokens, channels], first and after each layer, from a layer i on in which the
        stream begins anew `{i}.residual`; for layer i `{i}.norm` (before gamma and beta, which
        are folded into the next linear layers; not of a parallel layer, which reads that of a layer
        in front), `{i}.query`, `{i}.key`, `{i}.value`, `{i}.scores`
        [samples, heads, tokens, tokens] (scaled), `{i}.probability` (their softmax),
        `{i}.attention`, `{i}.hidden`, `{i}.logits`, `{i}.expert{e}.hidden` [routed tokens, hidden];
        `head.norm` and `output` [samples, rows, outputs], before the output layout, of further
        heads `head1.norm`, `output1` and so on. What it returns, if it does, takes the point's
        place.

    Returns
    -------
    dict
        Every head's tensor to [samples, *head.shape[1:]].
    """
    note: Observe = observe or (lambda point, tensor: None)
    samples = np.asarray(x, np.float64).reshape(-1, int(np.prod(graph.input_shape)))
    with torch.no_grad():
        state = embed_patches(graph, torch.from_numpy(samples).to(dtype), note)
        state = _seen(note, "residual", state)
        results = run_rest(graph, state, 0, note)
    return {
        head.tensor: lay_out(head, results[number]).numpy().reshape(len(samples), *head.shape[1:])
        for number, head in enumerate(graph.heads)
    }


def run_float(
    graph: ir.Graph,
    x: NDArray[np.floating],
    observe: Observe | None = None,
    dtype: torch.dtype = torch.float64,
) -> NDArray[np.floating]:
    """:func:`run_outputs` of a graph with one head: its output."""
    (output,) = run_outputs(graph, x, observe, dtype).values()
    return output
