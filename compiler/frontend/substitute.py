"""Values rebuilt with some of their sources replaced, and what each element depends on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from moesaic.compiler.frontend.algebra import Algebra, Value, as_view, softmax
from moesaic.compiler.frontend.choices import (
    Compare,
    Counted,
    Listed,
    Listing,
    Lookup,
    Masked,
    TopKIndices,
    TopKValues,
)
from moesaic.compiler.frontend.layout import simplify
from moesaic.compiler.frontend.views import (
    NONE,
    Arena,
    BatchProduct,
    Norm,
    NotRecognised,
    Product,
    RowSum,
    Softmax,
    Source,
    Sum,
    Times,
    Unary,
    View,
)
from moesaic.compiler.ir import IndexArray

MIXED = -2
"""Label of an element that depends on several things."""
Replace = Callable[[Source], View | None]
"""All elements [size] of a source that is replaced, else None."""


def _rows(source: Source) -> list[tuple[View, int]]:
    """Return each operand as [R, S] and how many elements of the source each row makes, in order.

    Raises
    ------
    NotRecognised
        That is not known of this kind of source.
    """
    match source:
        case Sum():
            return [(term.reshape(-1, 1), 1) for term in source.terms]
        case Times() | Compare():
            return [(part.reshape(-1, 1), 1) for part in (source.left, source.right)]
        case Masked():
            return [(part.reshape(-1, 1), 1) for part in (source.mask, source.value)]
        case Unary():
            return [(source.argument.reshape(-1, 1), 1)]
        case Listed():
            return [(source.value.reshape(-1, 1), 1)]
        case Product():
            return [(source.rows, source.weight.shape[0])]
        case Counted() | Norm() | Softmax():
            return [(source.rows, source.rows.shape[1])]
        case RowSum():
            return [(source.rows, 1)]
        case TopKValues():
            return [(source.rows, source.k)]
        case TopKIndices():
            return [(source.values.rows, source.values.k)]
        case Listing():
            return [(source.mask.reshape(1, -1), source.size)]
        case _:
            raise NotRecognised(f"{source.node} is not computed row by row")


def _joined(labels: IndexArray) -> IndexArray:
    """Return the label of each row of [R, S] labels."""
    highest = labels.max(axis=1)
    lowest = np.where(labels == NONE, highest[:, None], labels).min(axis=1)
    return np.where(lowest == highest, highest, MIXED)


class Labels:
    """Which of something each element depends on: NONE of it, one by its number, or MIXED.

    ``own`` gives the labels [size] of the sources that have them by themselves; sources before
    ``first`` depend on none.
    """

    def __init__(
        self, arena: Arena, first: int, own: Callable[[Source], IndexArray | None]
    ) -> None:
        self._arena, self._first, self._own = arena, first, own
        self._known: dict[int, IndexArray | None] = {}

    def of(self, view: View) -> IndexArray:
        """Return the label of every element of a view, in its shape."""
        labels = np.full(view.shape, NONE)
        for source in self._arena.sources_of(view):
            known = self._source(source)
            if known is not None:
                inside = (view.ids >= source.start) & (view.ids < source.start + source.size)
                labels[inside] = known[view.ids[inside] - source.start]
        return labels

    def _source(self, source: Source) -> IndexArray | None:
        if source.start < self._first:
            return None
        if source.start not in self._known:
            self._known[source.start] = self._find(source)
        return self._known[source.start]

    def _find(self, source: Source) -> IndexArray | None:
        if (own := self._own(source)) is not None:
            return own
        if isinstance(source, BatchProduct):
            rows, columns = self.of(source.left), self.of(source.right.swap_last())
            batch, m, k = rows.shape
            shape = batch, m, columns.shape[1]
            parts = [_joined(part.reshape(-1, k)).reshape(batch, -1) for part in (rows, columns)]
            found = [
                np.broadcast_to(parts[0][:, :, None], shape).reshape(-1),
                np.broadcast_to(parts[1][:, None, :], shape).reshape(-1),
            ]
        elif isinstance(source, Lookup):
            found = [np.full(source.size, MIXED)] if self._any(source.index, source.data) else []
        else:
            found = [np.repeat(_joined(self.of(rows)), each) for rows, each in _rows(source)]
        if not any((labels != NONE).any() for labels in found):
            return None
        return _joined(np.stack(found, axis=1))

    def _any(self, *views: View) -> bool:
        return any((self.of(view) != NONE).any() for view in views)


class Substitution:
    """Rebuilds values; sources before ``first`` stay as they are."""

    def __init__(self, arena: Arena, first: int, replace: Replace) -> None:
        self._algebra = Algebra(arena)
        self._arena, self._first, self._replace = arena, first, replace
        self._known: dict[int, View | None] = {}

    def of(self, view: View) -> Value:
        """Return a view with the replaced sources' elements; a constant becomes an array."""
        ids, scale, offset = view.ids, view.scale, view.offset
        changed = False
        for source in self._arena.sources_of(view):
            if (new := self._source(source)) is None:
                continue
            if not changed:
                ids, scale, offset = ids.copy(), scale.copy(), offset.copy()
                changed = True
            inside = (view.ids >= source.start) & (view.ids < source.start + source.size)
            outer = View(view.ids[inside], view.scale[inside], view.offset[inside])
            part = new.at(outer.ids - source.start, outer)
            ids[inside], scale[inside], offset[inside] = part.ids, part.scale, part.offset
        return simplify(View(ids, scale, offset)) if changed else view

    def _source(self, source: Source) -> View | None:
        """Return what the elements [size] of a source have become, None if they stay."""
        if source.start < self._first:
            return None
        if source.start not in self._known:
            new = self._replace(source)
            self._known[source.start] = self._rebuilt(source) if new is None else new
        return self._known[source.start]

    def _rebuilt(self, source: Source) -> View | None:
        operands, make = _recipe(self._algebra, source)
        values = [self.of(operand) for operand in operands]
        if all(value is operand for value, operand in zip(values, operands, strict=True)):
            return None
        self._algebra.node, self._algebra.name = source.node, source.name
        return as_view(make(*values)).reshape(-1)


def _recipe(algebra: Algebra, source: Source) -> tuple[Sequence[View], Callable[..., Value]]:
    """Return what a source is made of, and how; what is not known here is made of nothing."""
    match source:
        case Sum():
            return source.terms, lambda *terms: reduce(algebra.add, terms)
        case Times():
            return (source.left, source.right), algebra.times
        case Unary():
            function = source.function
            return (source.argument,), lambda x: algebra.unary(function, as_view(x))
        case Product():
            weight = source.weight
            return (source.rows,), lambda rows: algebra.product(as_view(rows), weight)
        case BatchProduct():
            return (source.left, source.right), lambda *sides: _multiplied(algebra, *sides)
        case RowSum():
            return (source.rows,), lambda rows: algebra.row_sum(as_view(rows))
        case Norm():
            epsilon = source.epsilon
            return (source.rows,), lambda rows: algebra.norm(as_view(rows), epsilon)
        case Softmax():
            return (source.rows,), lambda rows: softmax(algebra, as_view(rows), 1)
        case Listed():
            listing, places = source.listing, source.places

            def listed(value: Value) -> View:
                new = Listed(
                    algebra.node, algebra.name, places.size,
                    listing=listing, places=places, value=as_view(value),
                )  # fmt: skip
                return algebra.arena.view(algebra.arena.add(new), places.shape)

            return (source.value,), listed
        case _:
            return (), as_view


def _multiplied(algebra: Algebra, left: Value, right: Value) -> Value:
    """Return the matrix product of [B, M, K] and [B, K, N]; equal matrices are one weight."""
    if not isinstance(right, View) and (right == right[:1]).all():
        return algebra.matmul(left, right[0])
    if not isinstance(left, View) and (left == left[:1]).all():
        turned = algebra.matmul(as_view(right).swap_last(), left[0].T)
        return as_view(turned).swap_last()
    return algebra.matmul(left, right)
