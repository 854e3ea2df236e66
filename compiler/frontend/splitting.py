"""Taking a sum apart into values and the gate weights that each has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moesaic.compiler.frontend.algebra import Algebra, as_view
from moesaic.compiler.frontend.choices import (
    Lookup,
    TopKIndices,
)
from moesaic.compiler.frontend.gates import (
    inner,
    is_gate,
    is_weighted,
    is_weighted_product,
    leaves_of,
)
from moesaic.compiler.frontend.leaves import factors
from moesaic.compiler.frontend.operators.choosing import compare
from moesaic.compiler.frontend.substitute import MIXED, Labels, Substitution
from moesaic.compiler.frontend.views import (
    NONE,
    Arena,
    BatchProduct,
    NotRecognised,
    Product,
    RowSum,
    Source,
    Sum,
    Times,
    TooLarge,
    View,
)

MOST_PARTS = 1 << 12
"""Of one mixture: 64 experts in each of 64 slots."""


@dataclass
class Part:
    """Some gate weights times a value: [T] each, and [T, C] or constants."""

    gates: list[View]
    value: View


class Splitter:
    """Takes the terms of a sum apart."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._algebra = Algebra(arena)
        self._assumed: dict[tuple[int, int], Substitution] = {}
        self._count = 0

    def split(self, view: View, gates: tuple[View, ...] = ()) -> Iterator[Part]:
        """Take [T, C] values apart.

        Raises
        ------
        NotRecognised
            They are no sum of experts times weights.
        """
        self._count += 1
        if self._count > 8 * MOST_PARTS:
            raise TooLarge(f"a mixture has more than {MOST_PARTS} terms")
        if view.is_constant:
            yield Part(list(gates), view)
            return
        if (chosen := self._lookups(view)) is not None and not is_gate(self._arena, view):
            yield from self._assume(view, gates, chosen)
            return
        source = self._arena.source_of(view)
        if view.offset.any() and isinstance(source, Sum | RowSum | BatchProduct | Times):
            yield Part(list(gates), as_view(np.array(view.offset)))
            view = view.unshifted
        if isinstance(source, Sum):
            for term in source.terms:
                yield from self.split(self._arena.inside(view, term), gates)
        elif isinstance(source, RowSum):
            rows = source.rows[view.ids.reshape(-1) - source.start]
            for column in range(rows.shape[1]):
                part = rows[:, column].reshape(*view.shape).affine(view.scale, 0.0)
                yield from self.split(part, gates)
        elif isinstance(source, Times):
            left = self._arena.inside(view, source.left)
            right = self._arena.inside(view.plain, source.right)
            yield from self._times(source, left, right, gates)
        elif isinstance(source, BatchProduct) and is_weighted_product(self._arena, source):
            yield from self._batch(source, view, gates)
        elif isinstance(source, Product) and is_weighted(self._arena, source.rows):
            yield from self._product(source, view, gates)
        elif not gates and is_gate(self._arena, view):
            raise NotRecognised(f"{source.node} adds gate weights")
        else:
            yield Part(list(gates), view)

    def _times(
        self, source: Source, left: View, right: View, gates: tuple[View, ...]
    ) -> Iterator[Part]:
        kinds = is_gate(self._arena, left), is_gate(self._arena, right)
        if kinds[0] == kinds[1]:
            raise NotRecognised(
                f"{source.node} must multiply the result of an expert by its gate weight"
            )
        gate, value = (left, right) if kinds[0] else (right, left)
        # What scales the weight by channel scales the result.
        scale = np.broadcast_to(1.0, gate.shape)
        if not (gate.scale == gate.scale[:, :1]).all():
            if gate.offset.any():
                raise NotRecognised(f"the weight at {source.node} differs between channels")
            scale, gate = gate.scale, gate.plain
        if not (gate.ids == gate.ids[:, :1]).all() or not (gate.offset == gate.offset[:, :1]).all():
            raise NotRecognised(f"the weight at {source.node} differs between channels")
        yield from self.split(value.affine(scale, 0.0), (*gates, gate[:, 0]))

    def _batch(self, source: BatchProduct, view: View, gates: tuple[View, ...]) -> Iterator[Part]:
        for first, right in factors(source, view.ids - source.start):
            left = first.affine(view.scale, 0.0)
            for constant, other in ((left, right), (right, left)):
                if constant.is_constant:
                    yield from self.split(other.affine(constant.offset, 0.0), gates)
                    break
            else:
                yield from self._times(source, left, right, gates)

    def _product(self, source: Product, view: View, gates: tuple[View, ...]) -> Iterator[Part]:
        """``(weight * hidden) @ W`` is ``weight * (hidden @ W)``, expert by expert."""
        width = source.weight.shape[0]
        element = view.ids - source.start
        rows, columns = element[:, 0] // width, element[0] % width
        if (element != rows[:, None] * width + columns).any():
            raise NotRecognised(f"the result of {source.node} is not used row by row")
        if view.offset.any():
            yield Part(list(gates), as_view(np.array(view.offset)))
        inputs, weight = source.rows[rows], source.weight[columns]
        if is_gate(self._arena, inputs):  # weights times a bias of each expert
            for k in range(inputs.shape[1]):
                bias = np.broadcast_to(weight[:, k].astype(np.float64), view.shape) * view.scale
                yield Part([*gates, inputs[:, k]], as_view(bias))
            return
        inner = self._arena.source_of(inputs)
        if not isinstance(inner, Times) or inputs.offset.any():
            raise NotRecognised(
                f"gate weights and results are mixed by {inner.node} in front of {source.node}"
            )
        sides = [self._arena.inside(inputs.plain, part) for part in (inner.left, inner.right)]
        kinds = [is_gate(self._arena, side) for side in sides]
        if kinds[0] == kinds[1]:
            raise NotRecognised(f"{inner.node} must multiply hidden values by gate weights")
        gate, hidden = sides if kinds[0] else sides[::-1]
        _, first, group = np.unique(gate.ids, axis=1, return_index=True, return_inverse=True)
        for number, k in enumerate(first):
            own = np.flatnonzero(group.reshape(-1) == number)
            if (
                not (gate[:, own].scale == gate[:, own].scale[:, :1]).all()
                or gate[:, own].offset.any()
            ):
                raise NotRecognised(f"the weight at {inner.node} differs between hidden values")
            self._algebra.node, self._algebra.name = source.node, source.name
            values = hidden[:, own].affine(inputs.scale[:, own], 0.0)
            part = self._algebra.product(values, weight[:, own])
            yield from self.split(part.affine(view.scale, 0.0), (*gates, gate[:, k]))

    # -- weights that were looked up by the number of an expert ---------------------------------

    def _lookups(self, view: View) -> TopKIndices | None:
        """Return what chose the experts whose weights a view has looked up."""

        def inside(source: Source) -> Sequence[View]:
            match source:
                case Product():
                    return (source.rows,)
                case BatchProduct():
                    return source.left, source.right
                case _:
                    return inner(source)

        for source in leaves_of(self._arena, view, inside):
            if not isinstance(source, Lookup):
                continue
            if source.data.is_constant or not is_gate(self._arena, view_of(source)):
                (found,) = self._arena.sources_of(source.index)
                assert isinstance(found, TopKIndices)
                return found
        return None

    def _assume(self, view: View, gates: tuple[View, ...], chosen: TopKIndices) -> Iterator[Part]:
        """Take each expert for the one that was looked up."""
        source = self._arena.sources_of(view)[0]
        if isinstance(source, Times) and len(self._arena.sources_of(view)) == 1:
            sides = [self._arena.inside(view.plain, p) for p in (source.left, source.right)]
            if any(is_gate(self._arena, side) for side in sides) and not view.offset.any():
                left = self._arena.inside(view, source.left)
                yield from self._times(source, left, sides[1], gates)
                return
        if isinstance(source, RowSum | Sum | BatchProduct) and self._labels(view, chosen) is None:
            yield from self._apart(source, view, gates)
            return
        index = self._labels(view, chosen)
        if index is None:
            raise NotRecognised(
                f"{source.node} mixes what was looked up for several chosen experts"
            )
        for expert in range(chosen.values.rows.shape[1]):
            key = chosen.start, expert
            if key not in self._assumed:
                self._assumed[key] = self._assumption(chosen, expert)
            value = as_view(self._assumed[key].of(view))
            self._algebra.node, self._algebra.name = chosen.node, chosen.name
            number = as_view(np.full(index.shape, float(expert)))
            hit = compare(self._algebra, "equal", index, number)
            yield from self.split(value, (*gates, hit))

    def _apart(self, source: Source, view: View, gates: tuple[View, ...]) -> Iterator[Part]:
        """Go into a sum over slots."""
        if view.offset.any():
            yield Part(list(gates), as_view(np.array(view.offset)))
            view = view.unshifted
        if isinstance(source, RowSum):
            rows = source.rows[view.ids.reshape(-1) - source.start]
            for column in range(rows.shape[1]):
                part = rows[:, column].reshape(*view.shape).affine(view.scale, 0.0)
                yield from self.split(part, gates)
        elif isinstance(source, Sum):
            for term in source.terms:
                yield from self.split(self._arena.inside(view, term), gates)
        elif isinstance(source, BatchProduct):
            yield from self._batch(source, view, gates)

    def _labels(self, view: View, chosen: TopKIndices) -> View | None:
        """Return the number [T] that each row goes by; None if a row goes by several."""

        def own(source: Source) -> np.ndarray | None:
            if isinstance(source, Lookup) and self._arena.sources_of(source.index) == [chosen]:
                return source.index.ids
            return None

        labels = Labels(self._arena, chosen.start, own).of(view)
        highest = labels.max(axis=1)
        others = (labels != highest[:, None]) & (labels != NONE)
        if others.any() or (labels == MIXED).any() or (highest == NONE).any():
            return None
        return View(highest, np.ones(highest.shape), np.zeros(highest.shape))

    def _assumption(self, chosen: TopKIndices, expert: int) -> Substitution:
        def replace(source: Source) -> View | None:
            if isinstance(source, Lookup) and self._arena.sources_of(source.index) == [chosen]:
                return source.at(expert)
            return None

        return Substitution(self._arena, chosen.start, replace)


def view_of(source: Source) -> View:
    """Return some element of a source, as good as any for what it is made of."""
    return View(np.array([source.start]), np.ones(1), np.zeros(1))
