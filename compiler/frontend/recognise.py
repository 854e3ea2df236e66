"""Walking the residual stream of a traced graph from the head back to the patches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from moesaic.compiler import ir
from moesaic.compiler.frontend.branches import read_branches
from moesaic.compiler.frontend.choices import Experts
from moesaic.compiler.frontend.given import find_step_and_zero
from moesaic.compiler.frontend.lists import replace_rows, spread
from moesaic.compiler.frontend.read import (
    State,
    as_matrix,
    make_linear,
    per_column,
    rows_and_columns,
)
from moesaic.compiler.frontend.views import (
    NONE,
    Arena,
    Input,
    Norm,
    NotRecognised,
    Product,
    RealArray,
    RowSum,
    Source,
    Sum,
    TooLarge,
    View,
    constant_view,
)
from moesaic.compiler.ir import IndexArray


def is_embedding(arena: Arena, view: View) -> bool:
    """Say whether a view holds constants and products of the input only, or is the input."""
    return _is_input(arena, view) or all(
        isinstance(source, Product)
        and all(isinstance(inner, Input) for inner in arena.sources_of(source.rows))
        for source in arena.sources_of(view)
    )


def _is_input(arena: Arena, view: View) -> bool:
    """Say whether a view holds elements of the input, as they are, and nothing else."""
    sources = arena.sources_of(view)
    plain = (view.ids != NONE).all() and (view.scale == 1).all() and not view.offset.any()
    return len(sources) == 1 and isinstance(sources[0], Input) and bool(plain)


def _is_stream(arena: Arena, view: View) -> bool:
    """Say whether each row may be one of the residual stream: rows may differ in how many updates
    they have behind them."""
    sources = arena.sources_of(view)
    if all(isinstance(source, (Sum, Norm)) for source in sources):
        return bool(sources) and not (view.ids == NONE).any()
    updated = [source for source in sources if isinstance(source, (Sum, Norm))]
    first = [row for row in range(view.shape[0]) if not _is_of(view[row], updated)]
    return is_embedding(arena, view[first])


def _is_of(row: View, sources: Sequence[Source]) -> bool:
    """Say whether all elements are of one of some sources."""
    return any(
        (row.ids >= source.start).all() and (row.ids < source.start + source.size).all()
        for source in sources
    )


LAYER = "the layer added by"
"""How a refusal begins that is about one layer."""
BLOCKS = "x + f(LayerNorm(x)), LayerNorm(x + f(x)) and LayerNorms in front of them"
MOST_TERMS = 1 << 12
"""Terms of one residual sum: 64 experts of 64 tokens each are a quarter of it."""


class _Update:
    """A residual sum taken apart: the stream before it, what is added, a constant beside both."""

    def __init__(self, arena: Arena, total: View, streams: set[int]) -> None:
        self.constant: RealArray = np.zeros(total.shape)
        self.terms: list[View] = []
        self.before: list[View] = []
        self._arena, self._streams, self._visits = arena, streams, 0
        self._take_apart(total, top=True)

    def _take_apart(self, view: View, top: bool = False) -> None:
        """Collect the terms of nested sums; a sum that layers or norms read is a stream."""
        self._visits += 1
        if self._visits > MOST_TERMS:
            raise TooLarge(f"a sum has more than {MOST_TERMS} terms")
        sources = self._arena.sources_of(view)
        whole = len(sources) == 1 and not (view.ids == NONE).any()
        source = sources[0] if whole else None
        if isinstance(source, Sum) and (top or source.start not in self._streams):
            self._split(view, [self._arena.inside(view.unshifted, term) for term in source.terms])
        elif isinstance(source, RowSum):
            rows = source.rows[view.ids.reshape(-1) - source.start]
            columns = [rows[:, c].reshape(*view.shape) for c in range(rows.shape[1])]
            self._split(view, [c.affine(view.scale, 0.0) for c in columns])
        elif _is_stream(self._arena, view):
            self.before.append(view)
        else:
            self.terms.append(view)

    def _split(self, view: View, parts: list[View]) -> None:
        self.constant = self.constant + view.offset
        for part in parts:
            if part.is_constant:
                self.constant = self.constant + part.offset
            else:
                self._take_apart(part)


def read_layers(arena: Arena, state: State) -> tuple[list[ir.Layer], list[State]]:
    """Walk back to the embedding.

    Returns the layers in order, and the residual stream before the first and behind each; between
    parallel layers there is none.
    """
    streams = {
        source.start
        for reader in arena.sources
        if isinstance(reader, (Norm, Product, Experts))
        for source in arena.sources_of(reader.rows)
    }
    layers: list[ir.Layer] = []
    states = [state]
    while not is_embedding(arena, state.view):
        source, rows = _latest(arena, state.view)
        if isinstance(source, Norm) and rows is None:
            layer, state = _read_renorm(state, source)
            layers.append(layer)
            states.append(state)
            continue
        if not isinstance(source, Sum):
            raise NotRecognised(_not_a_stream(source, last=not layers))
        update = _Update(arena, state.view if rows is None else state.view[rows], streams)
        if len(update.before) != 1 or not update.terms:
            raise NotRecognised(
                f"{source.node} must add one layer to the residual stream: only {BLOCKS} are"
                " supported"
            )
        (before,) = update.before
        # Patch embeddings and LayerNorms may be scaled: their weights take it.
        scaled = (before.scale[before.ids != NONE] != 1).any()
        takes = is_embedding(arena, before) or isinstance(arena.sources_of(before)[0], Norm)
        if scaled and not takes:
            raise NotRecognised(f"the residual stream is scaled before {source.node}")
        terms, constant = update.terms, update.constant
        if rows is not None:
            count = state.view.shape[0]
            terms = [spread(term, rows, count) for term in terms]
            constant = spread(constant_view(constant), rows, count).offset
            before = replace_rows(state.view, rows, before)
        state = State(before)
        states.append(state)
        try:
            found = read_branches(arena, terms, constant, state)
        except NotRecognised as error:
            raise NotRecognised(f"{LAYER} {source.node}: {error}") from error
        if layers and _are_beside(found, layers):
            layers[-1].parallel = True
            del states[-2]
        layers += reversed(found)
    return layers[::-1], states[::-1]


def _latest(arena: Arena, view: View) -> tuple[Source, IndexArray | None]:
    """Return what a stream's rows were computed by last, and which rows; None for all."""
    sources = arena.sources_of(view)
    if len(sources) < 2 and not (view.ids == NONE).any():
        return arena.source_of(view), None
    last = sources[-1]
    mine = [row for row in range(view.shape[0]) if _is_of(view[row], [last])]
    if not mine or len(mine) == view.shape[0]:
        return arena.source_of(view), None
    return last, np.array(mine)


def _are_beside(found: list[ir.Layer], layers: list[ir.Layer]) -> bool:
    """Say whether layers are parallel to those of the update behind them, the last of ``layers``:
    none adds to a token that those read."""
    update = [layers[-1], *takewhile(lambda layer: layer.parallel, layers[-2::-1])]
    norms = {(layer.norm.epsilon, layer.norm.plain) for layer in (*found, *update)}
    lists = [
        layer.tokens
        for layer in (*found, *update)
        if isinstance(layer, ir.Mlp) and layer.tokens is not None
    ]
    if len(norms) > 1 or len(lists) < len(found) + len(update):
        return False
    first, second = np.concatenate(lists[: len(found)]), np.concatenate(lists[len(found) :])
    return not np.isin(first, second).any()


def _read_renorm(state: State, norm: Norm) -> tuple[ir.Renorm, State]:
    """Read a stream that is a LayerNorm's result; returns the stream that it normalises, too."""
    try:
        matrix = as_matrix(state.view, norm, norm.rows.shape[1])
        if not np.array_equal(matrix.columns, np.arange(norm.rows.shape[1])):
            raise NotRecognised("its channels are not those of its input in their order")
    except NotRecognised as error:
        raise NotRecognised(f"the LayerNorm {norm.node} that makes the stream: {error}") from error
    channels = matrix.columns.size
    gamma, beta = matrix.scale.astype(np.float32), matrix.offset.astype(np.float32)
    identity = make_linear(np.eye(channels), np.zeros(channels), norm.name)
    read = ir.Norm(gamma, beta, norm.epsilon, norm.name)
    return ir.Renorm(read, identity, norm.name), State(norm.rows[matrix.rows])


def _not_a_stream(source: Source, last: bool) -> str:
    if last and isinstance(source, RowSum):
        return (
            f"{source.node} pools the tokens before the last LayerNorm, which the accelerator"
            " applies to tokens one by one: pool on the host"
        )
    return (
        f"the residual stream must begin with patch embedding, but {source.node} makes it a"
        f" computed value: only {BLOCKS} on patches of the input are supported"
    )


def read_embedding(arena: Arena, state: State, source: Input) -> ir.Embed | ir.Tokens:
    """Read the first residual stream as patches, class tokens and position embedding, or as the
    input itself."""
    view = state.view
    if _is_input(arena, view):
        return ir.Tokens(view.ids - source.start, source.name)
    computed = view.ids != NONE
    rows = np.flatnonzero(computed.any(axis=1))
    if rows.size == 0:
        raise NotRecognised("the tokens do not depend on the input")
    first, last = int(rows[0]), int(rows[-1]) + 1
    if last - first != rows.size or not computed[first:last].all():
        raise NotRecognised("tokens made of patches must follow one another without gaps")
    patches = view[first:last]
    product = arena.source_of(patches)
    assert isinstance(product, Product)
    chosen, columns = rows_and_columns(patches.ids - product.start, product.weight.shape[0])
    scale = per_column(patches.scale, "scale")
    weight = product.weight[columns].astype(np.float64) * scale[:, None]
    inputs = product.rows[chosen]
    if (inputs.ids == NONE).any():
        raise NotRecognised(f"the patches of {product.node} must not be padded")
    initial = view.offset.copy()
    initial[first:last] += inputs.offset @ weight.T
    linear_weight = weight * per_column(inputs.scale, "scale")
    gather: IndexArray = inputs.ids - source.start
    codes = None if product.codes is None else product.codes[columns]
    step, zero = find_step_and_zero(arena, inputs.plain, "input")
    given = ir.Given(codes, source=step, source_zero=zero)
    return ir.Embed(
        linear=make_linear(linear_weight, np.zeros(weight.shape[0]), product.name, given),
        gather=gather,
        initial=initial.astype(np.float32),
        first_row=first,
        name=product.name,
    )
