"""What each stage of the compiler may take for granted of the graph that it gets.

A stage that breaks a rule is at fault, whatever the model: so it is an ``AssertionError``, which
names the stage and the layer. What a file does wrong is refused where it is read; numbers that
float32 does not hold are found by comparing results (``validate``, ``rewrite.check``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler import ir
from moesaic.spec.activations import ACTIVATIONS
from moesaic.spec.graphcheck import check_shapes, check_values
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.schema import SchemaError

Rule = tuple[bool, str]


def verify(graph: ir.Graph, behind: str) -> ir.Graph:
    """Check a float graph behind a stage; returns it.

    Raises
    ------
    AssertionError
        Layers do not fit each other, or an index points nowhere.
    """
    for where, rules in _parts(graph):
        for holds, rule in rules:
            if not holds:
                raise AssertionError(f"behind {behind}: {where}: {rule}")
    return graph


def verify_integers(graph: IntGraph, behind: str) -> IntGraph:
    """Check an integer graph behind a stage, as a bundle's is when it is read; returns it.

    Raises
    ------
    AssertionError
        A rule of :mod:`~moesaic.spec.graphcheck` is broken.
    """
    try:
        check_shapes(graph)
        check_values(graph)
    except SchemaError as error:
        raise AssertionError(f"behind {behind}: {error}") from error
    return graph


def _parts(graph: ir.Graph) -> Iterator[tuple[str, Iterator[Rule]]]:
    yield "embedding", _embed(graph)
    for number, layer in enumerate(graph.layers):
        yield ir.layer_label(number, layer), _layer(graph, number, layer)
    for head in graph.heads:
        yield f"output {head.tensor}", _head(graph, head)
    yield "outputs", iter([(bool(graph.heads), "there are some")])


def _embed(graph: ir.Graph) -> Iterator[Rule]:
    embed, values = graph.embed, int(np.prod(graph.input_shape))
    yield _are_indices(embed.gather, values), f"gather points into an input of {values} values"
    if isinstance(embed, ir.Embed):
        yield from _linear(embed.linear, embed.gather.shape[1], embed.channels)
        last = embed.first_row + len(embed.gather)
        yield 0 <= embed.first_row and last <= embed.tokens, "patches are rows of the stream"


def _layer(graph: ir.Graph, number: int, layer: ir.Layer) -> Iterator[Rule]:
    channels = graph.channels
    yield from _norm(layer.norm, channels)
    yield number > 0 or not layer.parallel, "the first layer has none beside it"
    match layer:
        case ir.Attention():
            keys, values = layer.heads * layer.head_dim, layer.heads * layer.value_dim
            yield from _linear(layer.query, channels, keys)
            yield from _linear(layer.key, channels, keys)
            yield from _linear(layer.value, channels, values)
            yield from _linear(layer.output, values, channels)
            if layer.rotary is not None:
                angles = layer.rotary.cosine, layer.rotary.sine
                pairs = {(len(part), 2 * part.shape[1] <= layer.head_dim) for part in angles}
                yield pairs == {(graph.tokens, True)}, "angles are of its tokens and pairs"
        case ir.Mlp():
            yield from _mlp(layer, channels)
            tokens = layer.tokens
            if tokens is not None:
                yield _are_indices(tokens, graph.tokens), "its tokens are rows of the stream"
                yield bool((np.diff(tokens) > 0).all()), "its tokens ascend"
        case ir.Moe():
            count = len(layer.experts)
            yield from _linear(layer.gate, channels, count)
            yield 1 <= layer.top_k <= count, f"{layer.top_k} of {count} experts are chosen"
            for expert in layer.experts:
                yield _are_equal(expert.norm, layer.norm), "experts read the layer's own norm"
                yield from _mlp(expert, channels)
            if layer.corrections is not None:
                yield layer.sigmoid and layer.corrections.shape == (count,), "experts' sigmoids"
        case ir.Renorm():
            yield from _linear(layer.linear, channels, channels)
            yield not layer.parallel, "nothing stands beside it"
        case _:
            assert_never(layer)


def _mlp(mlp: ir.Mlp, channels: int) -> Iterator[Rule]:
    hidden = mlp.down.inputs
    yield mlp.activation in ACTIVATIONS, f"{mlp.activation} is an activation"
    yield from _linear(mlp.up, channels, hidden)
    yield from _linear(mlp.down, hidden, channels)
    if mlp.factor is not None:
        yield from _linear(mlp.factor, channels, hidden)


def _head(graph: ir.Graph, head: ir.Head) -> Iterator[Rule]:
    yield from _norm(head.norm, graph.channels)
    yield from _linear(head.linear, graph.channels, head.linear.outputs)
    last = head.first_row + head.rows
    yield 0 <= head.first_row < last <= graph.tokens, "its rows are of the stream"
    yield 0 <= head.depth <= len(graph.layers), "it stands behind some layers"
    values = head.rows * head.linear.outputs
    yield _are_indices(head.permutation, values), f"its layout points into {values} values"
    size = int(np.prod(head.shape))
    yield head.permutation.size == size, f"its layout has {size} values"


def _linear(linear: ir.Linear, inputs: int, outputs: int) -> Iterator[Rule]:
    shape = outputs, inputs
    yield linear.weight.shape == shape, f"{linear.name} is {linear.weight.shape}, not {shape}"
    yield linear.bias.shape == (outputs,), f"{linear.name} has {outputs} biases"
    codes = linear.given.codes
    yield codes is None or codes.shape == shape, f"the codes of {linear.name} are those of it"


def _norm(norm: ir.Norm, channels: int) -> Iterator[Rule]:
    for part in (norm.gamma, norm.beta):
        yield part.shape == (channels,), f"{norm.name} is of {channels} channels"
    yield norm.epsilon >= 0, f"the epsilon of {norm.name} is none below 0"


def _are_equal(one: ir.Norm, other: ir.Norm) -> bool:
    return one is other or (
        np.array_equal(one.gamma, other.gamma)
        and np.array_equal(one.beta, other.beta)
        and (one.epsilon, one.plain) == (other.epsilon, other.plain)
    )


def _are_indices(values: NDArray[np.int64], count: int) -> bool:
    return not values.size or bool(0 <= values.min() and values.max() < count)
