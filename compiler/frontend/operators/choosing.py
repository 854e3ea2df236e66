"""Operators that choose: top k, tables of chosen values, comparisons, masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.frontend.algebra import Algebra, Value
from moesaic.compiler.frontend.operators.call import ANY, Call, Operator
from moesaic.compiler.frontend.views import (
    Equal,
    NotRecognised,
    Scatter,
    TopKIndices,
    TopKValues,
    View,
)


def _top_k(call: Call) -> list[Value]:
    view, k = call.view(0), int(np.ravel(call.constant(1, "k"))[0])
    if not call.attributes.get("largest", 1):
        raise NotRecognised("it must choose the largest")
    axis = call.attributes.get("axis", -1) % len(view.shape)
    rows = view.move_last((axis,))
    flat = rows.reshape(-1, rows.shape[-1])
    algebra, size, shape = call.algebra, flat.shape[0] * k, (*rows.shape[:-1], k)
    values = TopKValues(algebra.node, algebra.name, size, rows=flat, k=k)
    algebra.arena.add(values)
    indices = TopKIndices(algebra.node, algebra.name, size, values=values)
    algebra.arena.add(indices)
    return [algebra.arena.view(source, shape).move_back(axis) for source in (values, indices)]


def _scatter(call: Call) -> list[Value]:
    """Scatter to places that are computed: only onto zeros, which is what a gate table is."""
    table, indices, updates = call.value(0), call.view(1), call.view(2)
    if call.attributes.get("reduction", "none") not in ("none", "add"):
        raise NotRecognised(f"reduction {call.attributes['reduction']!r} is not supported")
    if isinstance(table, View) or np.any(table):
        raise NotRecognised("it must scatter onto a constant of zeros")
    axis = call.attributes.get("axis", 0) % table.ndim
    width = table.shape[axis]
    rows = np.moveaxis(table, axis, -1).shape[:-1]
    indices, updates = indices.move_last((axis,)), updates.move_last((axis,))
    if indices.shape[:-1] != rows or updates.shape != indices.shape:
        raise NotRecognised("indices, updates and data must have the same rows")
    source = Scatter(
        call.algebra.node,
        call.algebra.name,
        int(np.prod(rows)) * width,
        indices=indices.reshape(-1, indices.shape[-1]),
        updates=updates.reshape(-1, updates.shape[-1]),
        width=width,
    )
    call.algebra.arena.add(source)
    return [call.algebra.arena.view(source, (*rows, width)).move_back(axis)]


def equal(algebra: Algebra, argument: View, constant: NDArray[np.generic]) -> View:
    """Return 1 where `argument` equals the constant, else 0, broadcast."""
    shape = np.broadcast_shapes(argument.shape, constant.shape)
    source = Equal(
        algebra.node,
        algebra.name,
        int(np.prod(shape)),
        argument=argument.broadcast(shape),
        constant=np.broadcast_to(np.asarray(constant, np.float64), shape),
    )
    return algebra.arena.view(algebra.arena.add(source), shape)


def _equal(call: Call) -> list[Value]:
    for argument, other in ((0, 1), (1, 0)):
        if not isinstance(call.value(other), View):
            constant = call.constant(other, "second operand")
            return [equal(call.algebra, call.view(argument), constant)]
    raise NotRecognised("one operand must be a constant")


def _one_hot(call: Call) -> list[Value]:
    indices, depth = call.view(0), int(np.ravel(call.constant(1, "depth"))[0])
    off, on = (float(v) for v in call.constant(2, "values"))
    axis = call.attributes.get("axis", -1) % (len(indices.shape) + 1)
    hits = equal(call.algebra, indices.reshape(*indices.shape, 1), np.arange(depth))
    return [hits.move_back(axis).affine(on - off, off)]


def _where(call: Call) -> list[Value]:
    """``where(mask, value, 0)`` with a computed mask is a product."""
    mask, chosen, other = call.view(0), call.value(1), call.value(2)
    if not isinstance(other, View) and not np.any(other):
        return [call.algebra.times(mask, chosen)]
    if not isinstance(chosen, View) and not np.any(chosen):
        return [call.algebra.times(mask.affine(-1.0, 1.0), other)]
    raise NotRecognised("with a computed condition, one branch must be zeros")


CHOICES = {
    "Equal": Operator(_equal, 2),
    "OneHot": Operator(_one_hot, 3, ("axis",)),
    "ScatterElements": Operator(_scatter, 3, ("axis", "reduction")),
    # Unsorted results keep values and indices in pairs, and no order of theirs is relied on.
    "TopK": Operator(_top_k, 2, ("axis", "largest"), {"sorted": ANY}),
    "Where": Operator(_where, 3),
}
