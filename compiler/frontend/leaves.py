"""The choices and softmaxes that gate weights come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesaic.compiler.frontend.choices import (
    Compare,
    Lookup,
    Masked,
    TopKIndices,
    TopKValues,
)
from moesaic.compiler.frontend.views import (
    NONE,
    Arena,
    BatchProduct,
    RowSum,
    Softmax,
    Source,
    Sum,
    Times,
    Unary,
    View,
)
from moesaic.compiler.ir import IndexArray


def factors(source: BatchProduct, local: IndexArray) -> list[tuple[View, View]]:
    """Return the products that elements of a matrix product are the sums of."""
    _, m, depth = source.left.shape
    n = source.right.shape[2]
    batch, row, column = local // (m * n), local // n % m, local % n
    return [(source.left[batch, row, k], source.right[batch, k, column]) for k in range(depth)]


class Leaves:
    """Walks from gate weights to the choices and softmaxes that they come from."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._seen: set[int] = set()
        self.choices: list[tuple[TopKValues, IndexArray]] = []
        self.softmaxes: list[tuple[Softmax, IndexArray]] = []
        self.node = "constants"

    def walk(self, values: View) -> None:
        """Visit [T, n] values."""
        for column in range(values.shape[1]):
            view = values[:, column]
            if view.is_constant:
                continue
            source = self._arena.source_of(view)
            if source.start in self._seen:
                continue
            self._seen.add(source.start)
            self.node = source.node
            self._visit(source, view.plain)

    def _visit(self, source: Source, view: View) -> None:
        local = view.ids - source.start
        match source:
            case Sum():
                operands: Sequence[View] = source.terms
            case Times() | Compare():
                operands = source.left, source.right
            case Unary():
                operands = (source.argument,)
            case Masked():
                operands = source.mask, source.value
            case RowSum():
                self.walk(source.rows[local])
                return
            case BatchProduct():
                operands = [part for pair in factors(source, local) for part in pair]
                for operand in operands:
                    self.walk(operand[:, None])
                return
            case Lookup():
                self.walk(source.index[local][:, None])
                self.walk(source.at(0)[local][:, None])
                return
            case TopKValues() | TopKIndices():
                values = source if isinstance(source, TopKValues) else source.values
                rows = local // values.k
                if not self._holds_masks(values):
                    self.choices.append((values, rows))
                self.walk(values.rows[rows])
                return
            case Softmax():
                rows = local // source.rows.shape[1]
                self.softmaxes.append((source, rows))
                self.walk(source.rows[rows])
                return
            case _:
                return
        for operand in operands:
            self.walk(self._arena.inside(view, operand)[:, None])

    def _holds_masks(self, values: TopKValues) -> bool:
        found = self._arena.sources_of(values.rows)
        return bool(found) and all(isinstance(source, Compare) for source in found)

    def choice(self) -> tuple[TopKValues | None, IndexArray]:
        """Return the choice of most experts and its row of each token."""
        if not self.choices:
            return None, np.array([NONE])
        return max(self.choices, key=lambda found: found[0].k)
