"""What each arithmetic ONNX operator does to traced values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from moesaic.compiler.frontend.algebra import Algebra, Value, as_view
from moesaic.compiler.frontend.views import (
    Equal,
    NotRecognised,
    Scatter,
    Softmax,
    TopKIndices,
    TopKValues,
    View,
)

Note = tuple[str, str]
"""What a report should say, and the node that it is about."""


@dataclass
class Call:
    """One node with its inputs traced and its attributes decoded."""

    algebra: Algebra
    node: onnx.NodeProto
    inputs: list[Value | None]
    attributes: dict[str, Any]
    opset: int
    notes: list[Note] = field(default_factory=list)

    def value(self, index: int) -> Value:
        """Return an input that must be there."""
        if index >= len(self.inputs) or self.inputs[index] is None:
            raise NotRecognised(f"input {index} is missing")
        return self.inputs[index]  # type: ignore[return-value]

    def view(self, index: int) -> View:
        """Return an input as a view."""
        return as_view(self.value(index))

    def constant(self, index: int, what: str) -> NDArray[np.generic]:
        """Return an input that must be a constant."""
        value = self.value(index)
        if isinstance(value, View):
            raise NotRecognised(f"its {what} must be a constant")
        return value

    def optional(self, index: int) -> Value | None:
        """Return an input or None."""
        return self.inputs[index] if index < len(self.inputs) else None


Handler = Callable[[Call], list[Value]]


def _add(call: Call) -> list[Value]:
    total = call.value(0)
    for index in range(1, len(call.inputs)):
        total = call.algebra.add(total, call.value(index))
    return [total]


def _subtract(call: Call) -> list[Value]:
    return [call.algebra.add(call.value(0), call.algebra.scale(call.value(1), -1.0))]


def _multiply(call: Call) -> list[Value]:
    return [call.algebra.times(call.value(0), call.value(1))]


def _divide(call: Call) -> list[Value]:
    return [call.algebra.times(call.value(0), call.algebra.reciprocal(call.value(1)))]


def _negate(call: Call) -> list[Value]:
    return [call.algebra.scale(call.value(0), -1.0)]


def _identity(call: Call) -> list[Value]:
    # Dropout's second output, a mask, is never needed in inference.
    return [call.value(0)] * len(call.node.output)


def _cast(call: Call) -> list[Value]:
    """Casts between floats, and of indices and masks; nothing here is rounded."""
    target = call.attributes.get("to", onnx.TensorProto.FLOAT)
    exact = all(
        isinstance(source, TopKIndices | Equal)
        for source in call.algebra.arena.sources_of(call.view(0))
    )
    if target in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
        call.notes.append(("rounding to 16 bits is left out", call.algebra.node))
    elif target not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE) and not exact:
        raise NotRecognised("activations cannot be cast to integers")
    return [call.value(0)]


def _unary(function: str) -> Handler:
    return lambda call: [call.algebra.unary(function, call.view(0))]


def _reciprocal(call: Call) -> list[Value]:
    return [call.algebra.reciprocal(call.value(0))]


def _gelu(call: Call) -> list[Value]:
    approximate = call.attributes.get("approximate", "none") == "tanh"
    return [call.algebra.unary("gelu_tanh" if approximate else "gelu", call.view(0))]


def _power(call: Call) -> list[Value]:
    exponents = np.unique(call.constant(1, "exponent"))
    if exponents.size != 1:
        raise NotRecognised("its exponent must be one number")
    base, exponent = call.value(0), float(exponents[0])
    if exponent in (1.0, 2.0, 3.0):
        result = base
        for _ in range(int(exponent) - 1):
            result = call.algebra.times(result, base)
        return [result]
    if exponent in (0.5, -0.5):
        root = call.algebra.unary("sqrt", as_view(base))
        return [root if exponent > 0 else call.algebra.reciprocal(root)]
    if exponent == -1.0:
        return [call.algebra.reciprocal(base)]
    raise NotRecognised(f"exponent {exponent:g} is not supported")


def _matmul(call: Call) -> list[Value]:
    return [call.algebra.matmul(call.value(0), call.value(1))]


def _gemm(call: Call) -> list[Value]:
    def operand(index: int, flag: str) -> Value:
        value = call.value(index)
        if not call.attributes.get(flag, 0):
            return value
        if isinstance(value, View):
            return value.transpose()
        return value.T

    result = call.algebra.matmul(operand(0, "transA"), operand(1, "transB"))
    alpha, beta = call.attributes.get("alpha", 1.0), call.attributes.get("beta", 1.0)
    if alpha != 1.0:
        result = call.algebra.scale(result, alpha)
    bias = call.optional(2)
    if bias is None:
        return [result]
    return [call.algebra.add(result, bias if beta == 1.0 else call.algebra.scale(bias, beta))]


def _convolution(call: Call) -> list[Value]:
    """A convolution is a product of unfolded patches, whatever its stride."""
    image, weight = call.view(0), call.constant(1, "weight")
    axes = weight.ndim - 2
    if call.attributes.get("group", 1) != 1:
        raise NotRecognised("group must be 1")
    if call.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise NotRecognised("auto_pad must be NOTSET")
    if any(call.attributes.get("pads", [])):
        raise NotRecognised("padding must be 0")
    if len(image.shape) != axes + 2 or image.shape[0] != 1 or image.shape[1] != weight.shape[1]:
        raise NotRecognised(f"its weight of shape {weight.shape} does not fit {image.shape}")
    strides = call.attributes.get("strides", [1] * axes)
    dilations = call.attributes.get("dilations", [1] * axes)
    kernel = weight.shape[2:]
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))

    def unfold(array: NDArray[Any]) -> NDArray[Any]:
        windows = np.lib.stride_tricks.sliding_window_view(
            array[0], reach, axis=tuple(range(1, axes + 1))
        )
        steps = (slice(None), *(slice(None, None, s) for s in strides))
        windows = windows[steps + tuple(slice(None, None, d) for d in dilations)]
        order = (*range(1, axes + 1), 0, *range(axes + 1, 2 * axes + 1))
        return windows.transpose(order).reshape(*windows.shape[1 : axes + 1], -1)

    patches = image.each(unfold)
    result = call.algebra.product(patches, weight.reshape(weight.shape[0], -1))
    if (bias := call.optional(2)) is not None:
        result = as_view(call.algebra.add(result, bias))
    return [result.move_back(0).reshape(1, result.shape[-1], *result.shape[:-1])]


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


def _reduce_sum(call: Call) -> list[Value]:
    view = call.view(0)
    axes = _axes(call, len(view.shape))
    rows = view.move_last(axes)
    kept = rows.shape[: len(view.shape) - len(axes)]
    total = call.algebra.row_sum(rows.reshape(*kept, -1))
    if call.attributes.get("keepdims", 1):
        shape = tuple(1 if axis in axes else n for axis, n in enumerate(view.shape))
        total = total.reshape(*shape)
    return [total]


def _reduce_mean(call: Call) -> list[Value]:
    view = call.view(0)
    count = int(np.prod([view.shape[axis] for axis in _axes(call, len(view.shape))]))
    return [call.algebra.scale(_reduce_sum(call)[0], 1.0 / count)]


def _layer_norm(call: Call) -> list[Value]:
    view = call.view(0)
    axis = call.attributes.get("axis", -1) % len(view.shape)
    columns = int(np.prod(view.shape[axis:]))
    normal: Value = call.algebra.norm(
        view.reshape(-1, columns), float(call.attributes.get("epsilon", 1e-5))
    ).reshape(*view.shape)
    normal = call.algebra.times(normal, call.constant(1, "scale"))
    if call.optional(2) is not None:
        normal = call.algebra.add(normal, call.constant(2, "bias"))
    return [normal]


def softmax(algebra: Algebra, view: View, axis: int) -> View:
    """Return the softmax along an axis."""
    rows = view.move_last((axis,))
    source = Softmax(
        algebra.node, algebra.name, rows.ids.size, rows=rows.reshape(-1, rows.shape[-1])
    )
    result = algebra.arena.view(algebra.arena.add(source, ("softmax", rows.digest())), rows.shape)
    return result.move_back(axis)


def _softmax(call: Call) -> list[Value]:
    view = call.view(0)
    return [softmax(call.algebra, view, call.attributes.get("axis", -1) % len(view.shape))]


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


def _is_nan(call: Call) -> list[Value]:
    # Weights and inputs are checked to be finite, and nothing here turns finite into NaN.
    return [np.zeros(call.view(0).shape, np.bool_)]


def _shape(call: Call) -> list[Value]:
    shape = call.view(0).shape
    start, end = call.attributes.get("start", 0), call.attributes.get("end", len(shape))
    return [np.array(shape[start:end], np.int64)]


def _size(call: Call) -> list[Value]:
    return [np.array(call.view(0).ids.size, np.int64)]


OPERATORS: dict[str, Handler] = {
    "Add": _add,
    "Cast": _cast,
    "CastLike": _identity,
    "Conv": _convolution,
    "Div": _divide,
    "Dropout": _identity,
    "Equal": _equal,
    "Erf": _unary("erf"),
    "Exp": _unary("exp"),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "IsInf": _is_nan,
    "IsNaN": _is_nan,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "Mul": _multiply,
    "Neg": _negate,
    "OneHot": _one_hot,
    "Pow": _power,
    "Reciprocal": _reciprocal,
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "Relu": _unary("relu"),
    "ScatterElements": _scatter,
    "Shape": _shape,
    "Sigmoid": _unary("sigmoid"),
    "Size": _size,
    "Softmax": _softmax,
    "Sqrt": _unary("sqrt"),
    "Sub": _subtract,
    "Sum": _add,
    "Tanh": _unary("tanh"),
    "TopK": _top_k,
    "Where": _where,
}
