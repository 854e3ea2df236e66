"""Arithmetic on traced values.

Everything affine in one operand is absorbed into views; what is left makes a new source. Forms
that ONNX writes in several ways are brought into one: division is a product with a reciprocal, a
mean is a scaled sum, and the arithmetic of a LayerNorm becomes a `Norm`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.frontend.given import find_codes
from moesaic.compiler.frontend.views import (
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
    check_elements,
    constant_view,
    finite,
)

Value = View | NDArray[np.generic]


def as_view(value: Value) -> View:
    """Return a constant as a view, a view as it is."""
    return value if isinstance(value, View) else constant_view(value)


def is_uniform(array: NDArray[np.float64], value: float, tolerance: float = 1e-6) -> bool:
    """Say whether all elements are `value` but for rounding."""
    return bool(np.allclose(array, value, rtol=tolerance, atol=0.0))


class Algebra:
    """Operations that add sources to an arena; `node` and `name` say whose they are."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.node = ""
        self.name = ""

    def _new(self, source: Source, shape: tuple[int, ...], *key: object) -> View:
        # One number per distinct operation: equal subexpressions then compare equal.
        return self.arena.view(self.arena.add(source, key or None), shape)

    def add(self, left: Value, right: Value) -> Value:
        """Return the elementwise sum, broadcast."""
        if not isinstance(left, View) and not isinstance(right, View):
            return np.asarray(left + right)  # type: ignore[operator]
        if not isinstance(right, View):
            return as_view(left).affine(1.0, finite(right))
        if not isinstance(left, View):
            return right.affine(1.0, finite(left))
        shape = np.broadcast_shapes(left.shape, right.shape)
        check_elements(int(np.prod(shape)), "its result")
        terms = (left.broadcast(shape), right.broadcast(shape))
        if np.array_equal(terms[0].ids, terms[1].ids):
            # The same elements twice: without this, a chain of x + x has 2^n terms.
            (first, second) = terms
            return View(first.ids, first.scale + second.scale, first.offset + second.offset)
        source = Sum(self.node, self.name, int(np.prod(shape)), terms=terms)
        return self._new(source, shape, "sum", *(term.digest() for term in terms))

    def scale(self, value: Value, factor: float) -> Value:
        """Return a value times a number."""
        if isinstance(value, View):
            return value.affine(factor, 0.0)
        return np.asarray(value * np.float64(factor))  # type: ignore[operator]

    def times(self, left: Value, right: Value) -> Value:
        """Return the elementwise product, broadcast; the last step of a LayerNorm gives a Norm."""
        if not isinstance(left, View) and not isinstance(right, View):
            return np.asarray(left * right)  # type: ignore[operator]
        if not isinstance(right, View):
            return as_view(left).affine(finite(right), 0.0)
        if not isinstance(left, View):
            return right.affine(finite(left), 0.0)
        shape = np.broadcast_shapes(left.shape, right.shape)
        check_elements(int(np.prod(shape)), "its result")
        left, right = left.broadcast(shape), right.broadcast(shape)
        for centred, inverse in ((left, right), (right, left)):
            try:
                rows, epsilon = self._layer_norm(centred, inverse)
            except NotRecognised:
                continue
            return self.norm(rows, epsilon).reshape(*shape)
        source = Times(self.node, self.name, int(np.prod(shape)), left=left, right=right)
        return self._new(source, shape, "times", left.digest(), right.digest())

    def unary(self, function: str, argument: View) -> View:
        """Return an elementwise function."""
        shape = argument.shape
        source = Unary(
            self.node, self.name, int(np.prod(shape)), function=function, argument=argument
        )
        return self._new(source, shape, "unary", function, argument.digest())

    def reciprocal(self, value: Value) -> Value:
        """Return 1 / value."""
        if isinstance(value, View):
            return self.unary("reciprocal", value)
        with np.errstate(divide="ignore"):  # refused where the result is used
            return np.asarray(1.0 / np.asarray(value, np.float64))

    def row_sum(self, rows: View) -> View:
        """Return the sums over the last axis."""
        flat = rows.reshape(-1, rows.shape[-1])
        source = RowSum(self.node, self.name, flat.shape[0], rows=flat)
        return self._new(source, rows.shape[:-1], "row_sum", flat.digest())

    def norm(self, rows: View, epsilon: float) -> View:
        """Return [R, C] rows normalised over the last axis."""
        if epsilon <= 0:
            raise NotRecognised(f"the epsilon of a LayerNorm must be positive, not {epsilon:g}")
        source = Norm(self.node, self.name, rows.ids.size, rows=rows, epsilon=epsilon)
        return self._new(source, rows.shape, "norm", epsilon, rows.digest())

    def product(self, rows: View, weight: NDArray[np.generic]) -> View:
        """Return ``rows @ weight.T`` for rows [..., K] and a constant weight [O, K]."""
        flat = rows.reshape(-1, rows.shape[-1])
        matrix = np.ascontiguousarray(weight, dtype=np.float32)
        if matrix.ndim != 2 or matrix.shape[1] != flat.shape[1]:
            raise NotRecognised(
                f"its weight of shape {matrix.shape} does not fit {flat.shape[1]} inputs"
            )
        size = flat.shape[0] * matrix.shape[0]
        check_elements(size, "its result")
        finite(matrix)
        codes = find_codes(self.arena, matrix)
        source = Product(self.node, self.name, size, rows=flat, weight=matrix, codes=codes)
        return self._new(source, (*rows.shape[:-1], matrix.shape[0]))

    def matmul(self, left: Value, right: Value) -> Value:
        """Return the matrix product of the last two axes, batched over the others."""
        if not isinstance(left, View) and not isinstance(right, View):
            return np.asarray(left @ right)  # type: ignore[operator]
        shapes = np.shape(left) if not isinstance(left, View) else left.shape
        others = np.shape(right) if not isinstance(right, View) else right.shape
        if len(shapes) < 2 or len(others) < 2:
            raise NotRecognised("a matrix product with a vector is not supported")
        if not isinstance(left, View):
            # A constant from the left: the same product on transposed operands.
            swapped = self.matmul(_transposed(right), _transposed(left))
            return _transposed(swapped)
        batch = np.broadcast_shapes(shapes[:-2], others[:-2])
        left = left.broadcast((*batch, *left.shape[-2:]))
        if isinstance(right, View):
            right = right.broadcast((*batch, *right.shape[-2:]))
            left, right = left.reshape(-1, *left.shape[-2:]), right.reshape(-1, *right.shape[-2:])
            shape = (*batch, left.shape[1], right.shape[2])
            if left.shape[2] != right.shape[1]:
                raise NotRecognised(f"shapes {shapes} and {others} do not fit")
            size = int(np.prod(shape))
            check_elements(size, "its result")
            source = BatchProduct(self.node, self.name, size, left=left, right=right)
            return self._new(source, shape)
        if int(np.prod(others[:-2])) == 1:
            return self.product(left, right.reshape(others[-2:]).T)
        # A stack of weights: one product for each, stacked again.
        stack = np.broadcast_to(right, (*batch, *others[-2:]))
        parts = {index: self.product(left[index], stack[index].T) for index in np.ndindex(*batch)}
        return stack_views(list(parts.values())).reshape(*batch, shapes[-2], others[-1])

    def _layer_norm(self, centred: View, inverse: View) -> tuple[View, float]:
        """Take ``(x - mean(x)) * (1 / sqrt(mean((x - mean(x))**2) + epsilon))`` apart.

        Returns the rows x and epsilon; raises NotRecognised if it is anything else.
        """
        root = self._argument(inverse, "reciprocal")
        variance = self._argument(root, "sqrt")
        squares = self.arena.source_of(variance)
        if not isinstance(squares, RowSum):
            raise NotRecognised("no variance")
        columns = squares.rows.shape[-1]
        element = variance.ids.reshape(-1, variance.shape[-1]) - squares.start
        if centred.shape[-1] != columns or (element != element[:, :1]).any():
            raise NotRecognised("no variance of these rows")
        epsilon = float(variance.offset.flat[0])
        if not is_uniform(variance.scale, 1 / columns) or not is_uniform(variance.offset, epsilon):
            raise NotRecognised("no mean of squares")
        square = self.arena.source_of(squares.rows)
        if not squares.rows.is_plain:
            raise NotRecognised("the squares of a variance are scaled")
        if not isinstance(square, Times) or not square.left.same(square.right):
            raise NotRecognised("no squares")
        deviation = self.arena.inside(squares.rows, square.left)[element[:, 0]]
        if not deviation.same(centred.reshape(*element.shape)):
            raise NotRecognised("a variance of something else")
        total = self.arena.source_of(deviation)
        if not isinstance(total, Sum) or len(total.terms) != 2:
            raise NotRecognised("nothing was subtracted")
        first, second = (self.arena.inside(deviation, term) for term in total.terms)
        for rows, mean in ((first, second), (second, first)):
            sums = self.arena.sources_of(mean)
            if len(sums) != 1 or not isinstance(sums[0], RowSum):
                continue
            rows_summed = sums[0].rows
            element = mean.ids - sums[0].start
            if (
                rows_summed.shape[-1] == columns
                and (mean.ids == mean.ids[:, :1]).all()
                and is_uniform(mean.scale, -1 / columns)
                and not mean.offset.any()
                and rows_summed[element[:, 0]].same(rows)
            ):
                return rows, epsilon
        raise NotRecognised("what was subtracted is not the mean")

    def _argument(self, view: View, function: str) -> View:
        """Return the argument of a unary function that is neither scaled nor shifted."""
        source = self.arena.source_of(view)
        if not isinstance(source, Unary) or source.function != function:
            raise NotRecognised(f"no {function}")
        if view.offset.any() or not is_uniform(view.scale, 1.0):
            raise NotRecognised(f"the {function} is scaled")
        return self.arena.inside(view, source.argument)


def softmax(algebra: Algebra, view: View, axis: int) -> View:
    """Return the softmax along an axis."""
    rows = view.move_last((axis,))
    source = Softmax(
        algebra.node, algebra.name, rows.ids.size, rows=rows.reshape(-1, rows.shape[-1])
    )
    result = algebra.arena.view(algebra.arena.add(source, ("softmax", rows.digest())), rows.shape)
    return result.move_back(axis)


def transpose(value: Value, order: Sequence[int]) -> Value:
    """Put axes in another order."""
    if not isinstance(value, View):
        return value.transpose(order)
    return value.transpose(*order) if order else value


def _transposed(value: Value) -> Value:
    if not isinstance(value, View):
        return np.swapaxes(value, -1, -2)
    return value.swap_last()


def stack_views(views: list[View], axis: int = 0) -> View:
    """Stack views of equal shape on a new axis."""
    return View(
        np.stack([view.ids for view in views], axis),
        np.stack([view.scale for view in views], axis),
        np.stack([view.offset for view in views], axis),
    )
