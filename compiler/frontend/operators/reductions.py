"""Operators over whole rows: sums, means, LayerNorm, softmax."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.frontend.algebra import Algebra, Value, softmax
from moesaic.compiler.frontend.operators.call import Call, Operator
from moesaic.compiler.frontend.operators.choosing import largest
from moesaic.compiler.frontend.views import NotRecognised, View


def _axes(call: Call, rank: int) -> tuple[int, ...]:
    """Return the axes of a reduction, from the attribute or the second input."""
    axes = call.attributes.get("axes")
    if axes is None and call.optional(1) is not None:
        axes = [int(axis) for axis in np.ravel(call.constant(1, "axes"))]
    if not axes:
        if call.attributes.get("noop_with_empty_axes", 0):
            raise NotRecognised("a reduction over no axes is not supported")
        axes = range(rank)
    return tuple(axis % rank for axis in axes)


def _over_rows(call: Call, reduce: Callable[[View], View]) -> list[Value]:
    """Reduce over the axes of a node: they become the last one."""
    view = call.view(0)
    axes = _axes(call, len(view.shape))
    rows = view.move_last(axes)
    kept = rows.shape[: len(view.shape) - len(axes)]
    total = reduce(rows.reshape(*kept, -1))
    if call.attributes.get("keepdims", 1):
        shape = tuple(1 if axis in axes else n for axis, n in enumerate(view.shape))
        total = total.reshape(*shape)
    return [total]


def _reduce_sum(call: Call) -> list[Value]:
    return _over_rows(call, call.algebra.row_sum)


def _reduce_max(call: Call) -> list[Value]:
    return _over_rows(call, lambda rows: largest(call.algebra, rows))


def _reduce_mean(call: Call) -> list[Value]:
    view = call.view(0)
    count = int(np.prod([view.shape[axis] for axis in _axes(call, len(view.shape))]))
    return [call.algebra.scale(_reduce_sum(call)[0], 1.0 / count)]


def _layer_norm(call: Call) -> list[Value]:
    view = call.view(0)
    axis = call.attributes.get("axis", -1) % len(view.shape)
    columns = int(np.prod(view.shape[axis:]))
    epsilon = float(call.attributes.get("epsilon", 1e-5))
    beta = None if call.optional(2) is None else call.constant(2, "bias")
    return [normalise(call.algebra, view, columns, epsilon, call.constant(1, "scale"), beta)]


def normalise(
    algebra: Algebra,
    view: View,
    columns: int,
    epsilon: float,
    gamma: NDArray[np.generic],
    beta: NDArray[np.generic] | None,
) -> Value:
    """Return the LayerNorm of rows of `columns` elements."""
    normal: Value = algebra.norm(view.reshape(-1, columns), epsilon).reshape(*view.shape)
    normal = algebra.times(normal, gamma)
    return normal if beta is None else algebra.add(normal, beta)


def _softmax(call: Call) -> list[Value]:
    view = call.view(0)
    return [softmax(call.algebra, view, call.attributes.get("axis", -1) % len(view.shape))]


_REDUCTION = ("keepdims", "noop_with_empty_axes")
REDUCTIONS = {
    # stash_type 1: statistics in float32.
    "LayerNormalization": Operator(_layer_norm, 3, ("axis", "epsilon"), {"stash_type": (1,)}),
    "ReduceMax": Operator(_reduce_max, 2, ("axes", *_REDUCTION)),  # axes: opset 17
    "ReduceMean": Operator(_reduce_mean, 2, ("axes", *_REDUCTION)),  # axes: opset 17
    "ReduceSum": Operator(_reduce_sum, 2, _REDUCTION),
    "Softmax": Operator(_softmax, 1, ("axis",)),
}
