"""Operators that choose: top k, the largest, comparisons, and masks, which are 0 or 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.frontend.algebra import Algebra, Value, as_view, stack_views
from moesaic.compiler.frontend.bounds import bounds
from moesaic.compiler.frontend.choices import (
    Compare,
    Counted,
    Masked,
    TopKIndices,
    TopKValues,
)
from moesaic.compiler.frontend.operators.call import Call, Handler, Operator
from moesaic.compiler.frontend.views import Arena, NotRecognised, View, check_elements

LITTLE = -1e4
"""What a mask puts in place of a score, at most: a softmax makes 0 of it."""


def _top(algebra: Algebra, rows: View, k: int, ordered: bool = True) -> tuple[View, View]:
    """Return the k largest [..., k] of rows [..., S], and where they are."""
    flat = rows.reshape(-1, rows.shape[-1])
    if not 0 < k <= flat.shape[1]:
        raise NotRecognised(f"it cannot choose {k} of {flat.shape[1]}")
    size, shape = flat.shape[0] * k, (*rows.shape[:-1], k)
    key = flat.digest(), k, ordered
    values = TopKValues(algebra.node, algebra.name, size, rows=flat, k=k, ordered=ordered)
    values = algebra.arena.add(values, ("top values", *key))  # type: ignore[assignment]
    indices = TopKIndices(algebra.node, algebra.name, size, values=values)
    indices = algebra.arena.add(indices, ("top indices", *key))  # type: ignore[assignment]
    return algebra.arena.view(values, shape), algebra.arena.view(indices, shape)


def _top_k(call: Call) -> list[Value]:
    view, k = call.view(0), int(np.ravel(call.constant(1, "k"))[0])
    if not call.attributes.get("largest", 1):
        raise NotRecognised("it must choose the largest")
    axis = call.attributes.get("axis", -1) % len(view.shape)
    ordered = bool(call.attributes.get("sorted", 1))
    values, indices = _top(call.algebra, view.move_last((axis,)), k, ordered)
    return [values.move_back(axis), indices.move_back(axis)]


def _arg_max(call: Call) -> list[Value]:
    view = call.view(0)
    if call.attributes.get("select_last_index", 0):
        raise NotRecognised(
            "attribute 'select_last_index' must be 0: among equal scores the accelerator takes the "
            "lowest number"
        )
    axis = call.attributes.get("axis", 0) % len(view.shape)
    _, indices = _top(call.algebra, view.move_last((axis,)), 1)
    return [indices.move_back(axis) if call.attributes.get("keepdims", 1) else indices[..., 0]]


def compare(algebra: Algebra, relation: str, left: View, right: View) -> View:
    """Return 1 where ``left RELATION right``, else 0, broadcast."""
    shape = np.broadcast_shapes(left.shape, right.shape)
    size = int(np.prod(shape))
    check_elements(size, "its result")
    left, right = left.broadcast(shape), right.broadcast(shape)
    source = Compare(
        algebra.node, algebra.name, size, relation=relation, left=left, right=right
    )  # fmt: skip
    key = ("compare", relation, left.digest(), right.digest())
    return algebra.arena.view(algebra.arena.add(source, key), shape)


def _known(arena: Arena, relation: str, left: View, right: View) -> bool | None:
    """Return whether a comparison holds for all elements, whatever the data are."""
    one, other = bounds(arena, left), bounds(arena, right)
    if one is None or other is None:
        return None
    if relation == "less":
        one, other = other, one
    if relation != "equal" and (one[0] > other[1]).all():
        return True
    if relation == "equal" and ((one[0] > other[1]) | (one[1] < other[0])).all():
        return False
    return False if relation != "equal" and (one[1] <= other[0]).all() else None


def _relation(relation: str, negated: bool = False) -> Handler:
    def run(call: Call) -> list[Value]:
        left, right = call.view(0), call.view(1)
        found = _known(call.algebra.arena, relation, left, right)
        if found is not None:
            return [np.broadcast_to(found != negated, np.broadcast_shapes(left.shape, right.shape))]
        made = compare(call.algebra, relation, left, right)
        return [made.affine(-1.0, 1.0) if negated else made]

    return run


def _not(call: Call) -> list[Value]:
    return [call.view(0).affine(-1.0, 1.0)]


def _mask(value: Value) -> Value:
    return value if isinstance(value, View) else np.asarray(value, np.float64)


def _and(call: Call) -> list[Value]:
    return [call.algebra.times(_mask(call.value(0)), _mask(call.value(1)))]


def _or(call: Call) -> list[Value]:
    algebra = call.algebra
    first, second = (
        algebra.add(algebra.scale(_mask(call.value(i)), -1.0), np.ones(())) for i in (0, 1)
    )
    return [as_view(algebra.times(first, second)).affine(-1.0, 1.0)]


def _cumulate(call: Call) -> list[Value]:
    """Sums up to each element: how many tokens an expert has so far."""
    view, algebra = call.view(0), call.algebra
    axis = int(np.ravel(call.constant(1, "axis"))[0]) % len(view.shape)
    rows = view.move_last((axis,))
    source = Counted(
        algebra.node, algebra.name, rows.ids.size, rows=rows.reshape(-1, rows.shape[-1])
    )
    return [algebra.arena.view(algebra.arena.add(source), rows.shape).move_back(axis)]


def _one_hot(call: Call) -> list[Value]:
    indices, depth = call.view(0), int(np.ravel(call.constant(1, "depth"))[0])
    off, on = (float(v) for v in call.constant(2, "values"))
    axis = call.attributes.get("axis", -1) % (len(indices.shape) + 1)
    numbers = as_view(np.arange(depth))
    hits = compare(call.algebra, "equal", indices.reshape(*indices.shape, 1), numbers)
    return [hits.move_back(axis).affine(on - off, off)]


def is_little(value: Value) -> bool:
    """Say whether a value is a constant that a softmax makes 0 of."""
    return not isinstance(value, View) and bool((np.asarray(value, np.float64) <= LITTLE).all())


def masked(algebra: Algebra, mask: View, value: View) -> View:
    """Return ``value`` where ``mask`` is 1, else so little that a softmax makes 0 of it."""
    shape = np.broadcast_shapes(mask.shape, value.shape)
    size = int(np.prod(shape))
    check_elements(size, "its result")
    source = Masked(
        algebra.node, algebra.name, size, mask=mask.broadcast(shape), value=value.broadcast(shape)
    )
    return algebra.arena.view(algebra.arena.add(source), shape)


def select(algebra: Algebra, mask: View, chosen: Value, other: Value) -> Value:
    """Return ``chosen`` where ``mask`` is 1, else ``other``."""
    inverse = mask.affine(-1.0, 1.0)
    if is_little(other):
        return masked(algebra, mask, as_view(chosen))
    if is_little(chosen):
        return masked(algebra, inverse, as_view(other))
    if not isinstance(other, View) and not np.any(other):
        return algebra.times(mask, chosen)
    if not isinstance(chosen, View) and not np.any(chosen):
        return algebra.times(inverse, other)
    return algebra.add(algebra.times(mask, chosen), algebra.times(inverse, other))


def _where(call: Call) -> list[Value]:
    mask = call.value(0)
    if not isinstance(mask, View):
        mask = as_view(np.asarray(mask, np.float64))
    chosen, other = call.value(1), call.value(2)
    shape = np.broadcast_shapes(*(np.shape(v) if not isinstance(v, View) else v.shape
                                  for v in (mask, chosen, other)))  # fmt: skip
    return [_broadcast(select(call.algebra, mask, chosen, other), shape)]


def _broadcast(value: Value, shape: tuple[int, ...]) -> Value:
    return value.broadcast(shape) if isinstance(value, View) else np.broadcast_to(value, shape)


def largest(algebra: Algebra, rows: View) -> View:
    """Return the largest of the last axis."""
    return _top(algebra, rows, 1)[0][..., 0]


def _max(call: Call) -> list[Value]:
    """The largest of several, broadcast; exporters ask for the shape of it. Against 0 it is
    ``relu``."""
    views = [call.view(index) for index in range(len(call.inputs))]
    shape = np.broadcast_shapes(*(view.shape for view in views))
    if len(views) == 1:
        return [views[0]]
    computed = [view for view in views if not view.is_constant]
    if len(computed) == 1 and not any(view.offset.any() for view in views if view.is_constant):
        return [call.algebra.unary("relu", computed[0].broadcast(shape))]
    stacked = stack_views([view.broadcast(shape) for view in views])
    return [largest(call.algebra, stacked.move_last((0,)))]


def hits(indices: View, algebra: Algebra, width: int) -> View:
    """Return [..., width, k] masks of which of `width` numbers the indices [..., k] are."""
    numbers: NDArray[np.int64] = np.arange(width)[:, None]
    return compare(algebra, "equal", indices[..., None, :], as_view(numbers))


CHOICES = {
    "And": Operator(_and, 2),
    "ArgMax": Operator(_arg_max, 1, ("axis", "keepdims", "select_last_index")),
    "CumSum": Operator(_cumulate, 2, (), {"exclusive": (0,), "reverse": (0,)}),
    "Equal": Operator(_relation("equal"), 2),
    "Greater": Operator(_relation("greater"), 2),
    "GreaterOrEqual": Operator(_relation("less", negated=True), 2),
    "Less": Operator(_relation("less"), 2),
    "LessOrEqual": Operator(_relation("greater", negated=True), 2),
    "Max": Operator(_max, None),
    "Not": Operator(_not, 1),
    "OneHot": Operator(_one_hot, 3, ("axis",)),
    "Or": Operator(_or, 2),
    "TopK": Operator(_top_k, 2, ("axis", "largest", "sorted")),
    "Where": Operator(_where, 3),
}
