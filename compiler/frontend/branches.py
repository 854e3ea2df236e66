"""What one residual update adds: a layer, or several on one norm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesaic.compiler import ir
from moesaic.compiler.frontend.attention import read_attention
from moesaic.compiler.frontend.choices import Experts
from moesaic.compiler.frontend.expert_node import read_node
from moesaic.compiler.frontend.experts import make_moe, read_expert, read_router
from moesaic.compiler.frontend.gates import is_mixture
from moesaic.compiler.frontend.lists import Listed, divide
from moesaic.compiler.frontend.mixture import read_mixture
from moesaic.compiler.frontend.read import State, per_column, read_linear, share_norm
from moesaic.compiler.frontend.views import (
    Arena,
    BatchProduct,
    NotRecognised,
    Product,
    RealArray,
    Softmax,
    Sum,
    Times,
    Unary,
    View,
)

ORDER = (ir.Attention, ir.Mlp, ir.Moe)
"""Of branches, whatever the file has: experts bring the most weights, which are fetched while the
others run. A paper-size frame with its mixtures first takes 8 % longer by the cost model."""
Weighed = list[View]
"""Terms whose sum is a mixture of experts written out."""


@dataclass
class Gated:
    """A branch [tokens, channels] times the sigmoid of a score of each token [tokens, 1]."""

    value: View
    score: View
    name: str


Branch = View | Listed | Weighed | Gated


def read_branches(
    arena: Arena, terms: list[View], constant: RealArray, state: State
) -> list[ir.Layer]:
    """Read the terms of one residual update.

    Parameters
    ----------
    terms
        Values [tokens, channels] that are added to the stream.
    constant
        [tokens, channels], added beside them.
    state
        The stream before the update.

    Returns
    -------
    list
        Layers as :data:`ORDER` has them, those of a kind in the order of their terms; all but the
        first are parallel.
    """
    parts = []
    for term in terms:
        divided, beside = divide(arena, term)
        parts += divided
        constant = constant + beside
    branches = _group(arena, parts)
    if constant.any():
        _give_constant(arena, branches, constant)
    layers = [_read(arena, branch, state) for branch in branches]
    first, *others = sorted(layers, key=lambda layer: ORDER.index(type(layer)))
    for layer in others:
        if layer.norm.epsilon != first.norm.epsilon:
            raise NotRecognised(
                f"node {first.norm.name!r} and node {layer.norm.name!r} normalise the same stream,"
                f" so their epsilon must be the same, not {first.norm.epsilon:g} and"
                f" {layer.norm.epsilon:g}: give both norms one"
            )
        layer.parallel = True
    return [first, *others]


def _group(arena: Arena, terms: list[View | Listed]) -> list[Branch]:
    """Group terms into branches: all experts that are weighed are one."""
    branches: list[Branch] = []
    experts: Weighed = []
    for term in terms:
        if isinstance(term, Listed):
            branches.append(term)
            continue
        if (gated := _find_gate(arena, term)) is not None:
            branches.append(gated)
            continue
        if not is_mixture(arena, term):
            branches += _split(arena, term)
            continue
        if not experts:
            branches.append(experts)
        experts.append(term)
    return branches


def _split(arena: Arena, view: View) -> list[View]:
    """Divide a linear layer that reads attended rows and others, as one output projection for
    attention and an MLP does, into one for each."""
    source = arena.source_of(view)
    if not isinstance(source, Product):
        return [view]
    inner = arena.sources_of(source.rows)
    contexts = [part for part in inner if isinstance(part, BatchProduct)]
    if len(contexts) in (0, len(inner)):
        return [view]
    ids = source.rows.ids[0]
    ranges = [(ids >= part.start) & (ids < part.start + part.size) for part in contexts]
    attended = np.logical_or.reduce(ranges)
    parts, rest = [], view
    for mine in (attended, ~attended):
        codes = None if source.codes is None else source.codes[:, mine]
        rows, weight = source.rows[:, mine], source.weight[:, mine]
        part = Product(source.node, source.name, source.size, rows, weight, codes)
        start = arena.add(part, ("part of", source.start, mine.tobytes())).start
        parts.append(View(rest.ids - source.start + start, rest.scale, rest.offset))
        rest = view.unshifted  # the bias is the first one's
    return parts


def _give_constant(arena: Arena, branches: list[Branch], constant: RealArray) -> None:
    """Add a constant to the first branch of all tokens that ends in a linear layer; without one to
    lists, to each the constant of its tokens."""
    last = [arena.source_of(b) if isinstance(b, View) else None for b in branches]
    numbers = [n for n, source in enumerate(last) if isinstance(source, Product)]
    if not numbers:
        for number, branch in enumerate(branches):
            if isinstance(branch, Listed):
                mine = branch.tokens
                value = branch.value.affine(1.0, per_column(constant[mine], "offset"))
                branches[number] = Listed(value, mine)
                constant = np.array(constant)
                constant[mine] = 0.0
        if not constant.any():
            return
        first = branches[0]
        if isinstance(first, Listed):
            raise NotRecognised("a constant is added to tokens that no layer adds anything to")
        view = first.value if isinstance(first, Gated) else first[0]
        source = last[0] or arena.source_of(view)
        raise NotRecognised(f"a constant is added to the experts at {source.node}")
    branch = branches[numbers[0]]
    assert isinstance(branch, View)
    branches[numbers[0]] = branch.affine(1.0, per_column(constant, "offset"))


def _find_gate(arena: Arena, term: View) -> Gated | None:
    """Return a branch that has a sigmoid of its own as its weight, as shared experts have."""
    times = arena.source_of(term)
    if not isinstance(times, Times) or term.offset.any():
        return None
    sides = [arena.inside(term.plain, part) for part in (times.left, times.right)]
    for value, weight in (sides, sides[::-1]):
        gate = arena.source_of(weight)
        if not isinstance(gate, Unary) or gate.function != "sigmoid":
            continue
        column = weight[:, :1]
        score = arena.inside(column.plain, gate.argument)
        same = (weight.ids == column.ids).all() and not weight.offset.any()
        if same and isinstance(arena.source_of(score), Product):
            # What scales the weight or the product scales the value.
            return Gated(value.affine(weight.scale * term.scale, 0.0), score, gate.name)
    return None


def _read(arena: Arena, branch: Branch, state: State) -> ir.Layer:
    """Read one branch."""
    if isinstance(branch, Gated):
        router = read_router(arena, state, branch.score)
        expert = read_expert(arena, state, branch.value)
        moe = make_moe(router, {0: expert}, 1, False, branch.name)
        moe.sigmoid = True
        return moe
    if isinstance(branch, Listed):
        return _read_listed(arena, branch, state)
    if isinstance(branch, list):
        try:
            return read_mixture(arena, state, branch)
        except NotRecognised as error:
            raise NotRecognised(_gated(arena, branch) or str(error)) from error
    source = arena.source_of(branch)
    if isinstance(source, Experts):
        return read_node(arena, state, branch)
    if not isinstance(source, Product):
        raise NotRecognised(
            f"{source.node} must not be added to the residual stream: only attention, MLPs and "
            "mixtures of experts behind a LayerNorm can be"
        )
    linear = read_linear(arena, branch)
    inner = arena.sources_of(linear.inputs)
    if inner and all(isinstance(part, BatchProduct) for part in inner):
        return read_attention(arena, state, linear)
    expert = read_expert(arena, state, branch)
    norm, inner_linears = share_norm(expert.inner)
    return expert.mlp(norm, inner_linears, linear.name)


def _read_listed(arena: Arena, branch: Listed, state: State) -> ir.Mlp:
    """Read an MLP of some tokens."""
    source = arena.source_of(branch.value)
    inner = arena.sources_of(source.rows) if isinstance(source, Product) else [source]
    if not isinstance(source, Product) or any(isinstance(part, BatchProduct) for part in inner):
        raise NotRecognised(
            f"{source.node} adds to {len(branch.tokens)} of {state.view.shape[0]} tokens: only an"
            " MLP may work on some of the tokens, not attention or a mixture of experts"
        )
    expert = read_expert(arena, state, branch.value, branch.tokens)
    norm, inner_linears = share_norm(expert.inner)
    mlp = expert.mlp(norm, inner_linears, source.name)
    mlp.tokens = branch.tokens
    return mlp


def _gated(arena: Arena, terms: Weighed) -> str | None:
    """Say which branch has a weight for each token that is no choice of experts: shared experts
    with a gate of their own, or a coefficient of a whole mixture."""
    for term in terms:
        times = arena.source_of(term)
        if not isinstance(times, Times):
            continue
        sides = [arena.inside(term.plain, part) for part in (times.left, times.right)]
        one, other = (next(iter(arena.sources_of(side)), None) for side in sides)
        for value, weight in ((one, other), (other, one)):
            gate = isinstance(weight, Unary) and weight.size == term.shape[0]
            coefficient = isinstance(weight, Softmax) and isinstance(value, Sum)
            if weight is not None and (gate or coefficient):
                return (
                    f"{weight.node} weighs a branch token by token without a choice: only experts"
                    " of a router may have a weight for each token, shared experts a constant"
                )
    return None
