"""Recognising multi-head attention from its two batched products and the softmax between."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesaic.compiler import ir
from moesaic.compiler.frontend.algebra import is_uniform
from moesaic.compiler.frontend.given import find_step
from moesaic.compiler.frontend.read import (
    LinearReading,
    NormalisedLinear,
    State,
    as_matrix,
    make_linear,
    per_column,
    read_linear,
    read_normalised,
    share_norm,
)
from moesaic.compiler.frontend.rotary import Turn, read_turned
from moesaic.compiler.frontend.views import (
    NONE,
    Arena,
    BatchProduct,
    NotRecognised,
    RealArray,
    Softmax,
    View,
)


@dataclass
class Head:
    """One head: query and key before scaling, value; columns of the output that it feeds."""

    query: NormalisedLinear
    key: NormalisedLinear
    value: NormalisedLinear
    scale: float
    output: RealArray
    """[channels, value_dim] of the output linear."""
    turn: Turn | None = None
    """Rotation of query and key, whose channels are in its order."""


def _vectors(view: View, source: BatchProduct) -> tuple[View, View]:
    """Return the row vectors [R, K] and column vectors [C, K] whose products [R, C] are.

    The product may have been written either way round, with a transposition behind it.
    """
    _, m, _ = source.left.shape
    n = source.right.shape[2]
    element = view.ids - source.start
    batch = np.unique(element // (m * n))
    if batch.size != 1:
        raise NotRecognised(f"{source.node} mixes heads")
    left, right = source.left[int(batch[0])], source.right[int(batch[0])]
    right = right.transpose()
    first, second = element // n % m, element % n
    if (first == first[:, :1]).all() and (second == second[:1]).all():
        return left[first[:, 0]], right[second[0]]
    if (second == second[:, :1]).all() and (first == first[:1]).all():
        return right[second[:, 0]], left[first[0]]
    raise NotRecognised(f"the result of {source.node} is not used as whole rows and columns")


def _unscaled(view: View) -> tuple[float, View]:
    """Take a common factor off a view."""
    factor = float(view.scale.flat[0])
    if factor in (0.0, 1.0) or not is_uniform(view.scale, factor, 0.0):
        return 1.0, view
    return factor, view.affine(1.0 / factor, 0.0)


def _projection(arena: Arena, state: State, view: View, what: str) -> NormalisedLinear:
    try:
        linear = read_linear(arena, view)
        linear.given = replace(linear.given, target=find_step(arena, view, what))
        return read_normalised(arena, state, linear)
    except NotRecognised as error:
        raise NotRecognised(f"the {what} of attention: {error}") from error


def _read_head(arena: Arena, state: State, view: View, output: RealArray) -> Head:
    """Read one head from its [tokens, value_dim] context."""
    context = arena.source_of(view)
    if not isinstance(context, BatchProduct):
        raise NotRecognised(f"{context.node} must multiply values by a Softmax of scores")
    weights, values = _vectors(view, context)
    normalised = arena.source_of(weights)
    if not isinstance(normalised, Softmax):
        raise NotRecognised(f"{context.node} must multiply values by a Softmax of scores")
    keys = normalised.rows.shape[1]
    matrix = as_matrix(weights, normalised, keys)
    if not matrix.is_plain or not np.array_equal(np.sort(matrix.columns), np.arange(keys)):
        raise NotRecognised(
            f"{normalised.node} must run over all keys, and its result must not be scaled"
        )
    scores = normalised.rows[matrix.rows][:, matrix.columns]
    source = arena.source_of(scores)
    if not isinstance(source, BatchProduct):
        raise NotRecognised(f"{normalised.node} must take products of queries and keys")
    if scores.offset.any():
        raise NotRecognised(
            f"a mask or position bias is added to the scores of {source.node}; "
            "use a position embedding on the tokens instead"
        )
    scale = float(scores.scale.flat[0])
    if not is_uniform(scores.scale, scale):
        raise NotRecognised(f"the scale of the scores of {source.node} must be one number")
    query_scale, query_view = _unscaled(_vectors(scores, source)[0])
    key_scale, key_view = _unscaled(_vectors(scores, source)[1])
    query_view, turn, query_size = read_turned(arena, query_view, "query")
    key_view, key_turn, key_size = read_turned(arena, key_view, "key")
    if turn is not None or key_turn is not None:
        if turn is None or key_turn is None or not turn.same(key_turn):
            raise NotRecognised(
                f"{source.node}: queries and keys must be rotated alike, channel by channel"
            )
        query_view, key_view = query_view[:, turn.order], key_view[:, turn.order]
        scale *= query_size * key_size
    query = _projection(arena, state, query_view, "query")
    key = _projection(arena, state, key_view, "key")
    value = _projection(arena, state, values.transpose(), "value")
    tokens = np.arange(state.view.shape[0])
    if not np.array_equal(query.tokens, tokens):
        raise NotRecognised(f"{source.node}: a token's query is taken from another token")
    if not np.array_equal(key.tokens, value.tokens) or not np.array_equal(
        np.sort(key.tokens), tokens
    ):
        raise NotRecognised(
            f"{source.node}: every token must attend to all {tokens.size} tokens; "
            "windows and pooled keys are not supported"
        )
    if turn is not None:
        for part in (query, key):  # a step that the file gives is of what is rotated, not of this
            part.given = replace(part.given, target=None)
        if not np.array_equal(key.tokens, tokens):
            raise NotRecognised(f"{source.node}: keys that are rotated come in another order")
    return Head(query, key, value, scale * query_scale * key_scale, output, turn)


def _head_number(arena: Arena, element: View) -> tuple[int, int]:
    """Return which product, and which of its batch, an element belongs to."""
    context = arena.source_of(element)
    assert isinstance(context, BatchProduct)
    block = context.left.shape[1] * context.right.shape[2]
    return context.start, int(element.ids[0] - context.start) // block


def read_attention(arena: Arena, state: State, output: LinearReading) -> ir.Attention:
    """Read a branch whose output linear's inputs [tokens, heads * value_dim] are contexts."""
    view = output.inputs
    if (view.ids == NONE).any():
        raise NotRecognised(f"{output.node} mixes heads of attention and constants")
    names = [source.name for source in arena.sources_of(view)]
    scale = per_column(view.scale, "scale")
    bias = output.bias + output.weight @ per_column(view.offset, "offset")
    weight = output.weight * scale
    plain = view.plain
    of_column = [_head_number(arena, plain[:1, column]) for column in range(view.shape[1])]
    heads = []
    columns_of: dict[tuple[int, int], list[int]] = {}
    for column, number in enumerate(of_column):
        columns_of.setdefault(number, []).append(column)
    for mine in columns_of.values():
        heads.append(_read_head(arena, state, plain[:, mine], weight[:, mine]))
    value_dim = heads[0].output.shape[1]
    if any(head.output.shape[1] != value_dim for head in heads):
        raise NotRecognised(f"all heads in front of {output.node} must have equally many columns")
    common = next((head.scale for head in heads if head.scale), 1.0)
    for head in heads:  # a scale per head becomes part of its query weights
        if head.scale != common:
            head.query.weight = head.query.weight * (head.scale / common)
            head.query.bias = head.query.bias * (head.scale / common)
            head.query.given = replace(head.query.given, target=None)
    rotary = _share_turn(heads, output.node)
    readings = [getattr(head, part) for part in ("query", "key", "value") for head in heads]
    norm, linears = share_norm(readings)
    count = len(heads)
    columns = np.concatenate([columns_of[number] for number in columns_of])
    codes = None if output.given.codes is None else output.given.codes[:, columns]
    given = ir.Given(codes, source=find_step(arena, plain, "attended values"))
    query, key, value = (_stack(linears[i * count : (i + 1) * count]) for i in range(3))
    return ir.Attention(
        norm=norm,
        query=query,
        key=key,
        value=value,
        output=make_linear(
            np.concatenate([head.output for head in heads], axis=1), bias, output.name, given
        ),
        heads=count,
        head_dim=query.outputs // count,
        value_dim=value_dim,
        scale=common,
        name=names[0],
        rotary=rotary,
    )


def _share_turn(heads: list[Head], node: str) -> ir.Rotary | None:
    """The rotation of all heads."""
    first = heads[0].turn
    for head in heads[1:]:
        if (head.turn is None) != (first is None) or (
            head.turn is not None and first is not None and not head.turn.same_angles(first)
        ):
            raise NotRecognised(f"all heads in front of {node} must be rotated by the same angles")
    if first is None:
        return None
    return ir.Rotary(first.cosine.astype(np.float32), first.sine.astype(np.float32))


def _stack(linears: list[ir.Linear]) -> ir.Linear:
    return ir.Linear(
        np.concatenate([linear.weight for linear in linears]),
        np.concatenate([linear.bias for linear in linears]),
        linears[0].name,
        _stack_given([linear.given for linear in linears]),
    )


def _stack_given(given: list[ir.Given]) -> ir.Given:
    """Return what heads have in common, their codes one after the other."""
    codes = [part.codes for part in given if part.codes is not None]
    target = given[0].target
    return ir.Given(
        np.concatenate(codes) if len(codes) == len(given) else None,
        target=target if all(part.target == target for part in given) else None,
    )
