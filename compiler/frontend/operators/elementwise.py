"""Elementwise arithmetic, casts, and what asks for shapes only."""

from __future__ import annotations

import numpy as np
import onnx

from moesaic.compiler.frontend.algebra import Value, as_view, softmax
from moesaic.compiler.frontend.bounds import bounds, is_mask
from moesaic.compiler.frontend.choices import TopKValues
from moesaic.compiler.frontend.operators.call import (
    ANY,
    FLOATS,
    Call,
    Handler,
    Operator,
)
from moesaic.compiler.frontend.operators.choosing import compare
from moesaic.compiler.frontend.views import (
    NONE,
    Input,
    Norm,
    NotRecognised,
    Product,
    RowSum,
    Softmax,
    Sum,
    Unary,
    View,
)


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
    if call.element_type(0) not in (*FLOATS, onnx.TensorProto.UNDEFINED):
        raise NotRecognised("a division of integers drops the remainder")
    if (found := _softmax_written_out(call)) is not None:
        return [found]
    return [call.algebra.times(call.value(0), call.algebra.reciprocal(call.value(1)))]


def _softmax_written_out(call: Call) -> Value | None:
    """``exp(x + c) / sum(exp(x + c))`` with one c for a row, which cancels: the largest x."""
    left, right, algebra = call.value(0), call.value(1), call.algebra
    if not isinstance(left, View) or not isinstance(right, View) or right.shape[-1:] != (1,):
        return None
    powers, sums = (algebra.arena.sources_of(side) for side in (left, right))
    if len(powers) != 1 or len(sums) != 1 or not (left.is_plain and right.is_plain):
        return None
    (power,), (total,) = powers, sums
    if not (isinstance(power, Unary) and power.function == "exp" and isinstance(total, RowSum)):
        return None
    rows = left.reshape(-1, left.shape[-1])
    summed = total.rows[right.ids.reshape(-1) - total.start]
    if not rows.same(summed):
        return None
    argument = algebra.arena.inside(rows, power.argument)
    inner = algebra.arena.sources_of(argument)
    if len(inner) == 1 and isinstance(inner[0], Sum) and not (argument.ids == NONE).any():
        terms = [algebra.arena.inside(argument.unshifted, term) for term in inner[0].terms]
        kept = [term for term in terms if not term.same(term[:, :1].broadcast(term.shape))]
        if kept:
            value: Value = argument.offset
            for term in kept:
                value = algebra.add(value, term)
            argument = as_view(value)
    return softmax(algebra, argument, 1).reshape(*left.shape)


def _negate(call: Call) -> list[Value]:
    return [call.algebra.scale(call.value(0), -1.0)]


def _dropout(call: Call) -> list[Value]:
    """In inference the data as they are, and a mask that keeps everything."""
    training = call.optional(2)
    if training is not None and (isinstance(training, View) or np.any(training)):
        raise NotRecognised("training_mode must be false: export the model for inference")
    value = call.value(0)
    return [value, np.ones(np.shape(value) if not isinstance(value, View) else value.shape, bool)]


def _cast(call: Call) -> list[Value]:
    return [_converted(call, call.attributes.get("to", onnx.TensorProto.UNDEFINED))]


def _cast_like(call: Call) -> list[Value]:
    return [_converted(call, call.element_type(1))]


def _converted(call: Call, target: int) -> Value:
    """Return an input as it is where a cast to the element type `target` changes no value."""
    view = call.view(0)
    if target in FLOATS:
        return view
    if target == onnx.TensorProto.BOOL:
        if is_mask(call.algebra.arena, view):
            return view
        return compare(call.algebra, "equal", view, as_view(np.zeros(()))).affine(-1.0, 1.0)
    if target in INTEGERS and bounds(call.algebra.arena, view) is not None:
        return view
    kind = onnx.TensorProto.DataType.Name(target).lower()
    raise NotRecognised(f"it casts computed values to {kind}, which changes them")


def _modulo(call: Call) -> list[Value]:
    """Numbers that are in range anyway, as exporters wrap the indices of a gather."""
    arena, view = call.algebra.arena, call.view(0)
    divisor = np.asarray(call.constant(1, "divisor"))
    found = bounds(arena, view)
    if found is None or (found[0] < 0).any() or (found[1] >= divisor).any():
        raise NotRecognised("it must leave its numbers as they are")
    return [view.broadcast(np.broadcast_shapes(view.shape, divisor.shape))]


def _unary(function: str) -> Handler:
    return lambda call: [call.algebra.unary(function, call.view(0))]


def _reciprocal(call: Call) -> list[Value]:
    return [call.algebra.reciprocal(call.value(0))]


def _gelu(call: Call) -> list[Value]:
    form = call.attributes.get("approximate", "none")
    if form not in ("none", "tanh"):
        raise NotRecognised(f"attribute 'approximate' must be 'none' or 'tanh', not {form!r}")
    return [call.algebra.unary("gelu_tanh" if form == "tanh" else "gelu", call.view(0))]


def _hard_sigmoid(call: Call) -> list[Value]:
    alpha, beta = call.attributes.get("alpha", 0.2), call.attributes.get("beta", 0.5)
    return [call.algebra.unary("unit", call.view(0).affine(alpha, beta))]


def _hard_swish(call: Call) -> list[Value]:
    x = call.view(0)
    return [call.algebra.times(x, call.algebra.unary("unit", x.affine(1 / 6, 0.5)))]


def _clip(call: Call) -> list[Value]:
    """``relu`` or ``unit``, where the bounds are 0 and something."""
    bounds: list[float | None] = []
    for index, name in ((1, "the lower bound"), (2, "the upper bound")):
        given = call.optional(index)
        if given is None:
            bounds.append(None)
            continue
        values = np.unique(np.asarray(call.constant(index, name), np.float64))
        if values.size != 1:
            raise NotRecognised(f"{name} must be one number")
        bounds.append(float(values[0]))
    low, high = bounds
    if high is not None and high >= float(np.finfo(np.float32).max):
        high = None
    if low is not None and high is not None and low >= high:  # as ONNX Runtime has it
        return [np.full(call.view(0).shape, high)]
    if low is not None and high is None:
        return [call.algebra.unary("relu", call.view(0).affine(1.0, -low)).affine(1.0, low)]
    if low == 0 and high is not None and high > 0:
        clipped = call.algebra.unary("unit", call.view(0).affine(1 / high, 0.0))
        return [call.algebra.scale(clipped, high)]
    raise NotRecognised(
        f"it clips to {low} .. {high}: only a lower bound, or 0 and an upper bound, are supported"
    )


def _swish(call: Call) -> list[Value]:
    x = call.view(0)
    gate = call.algebra.unary("sigmoid", x.affine(call.attributes.get("alpha", 1.0), 0.0))
    return [call.algebra.times(x, gate)]


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


def _is_nan(call: Call) -> list[Value]:
    """Zeros: weights and inputs are finite, and so is all that these sources make of them."""
    view = call.view(0)
    for source in call.algebra.arena.sources_of(view):
        if not isinstance(source, Input | Norm | Product | Softmax | TopKValues):
            raise NotRecognised(f"whether {source.node} gives NaN or infinity is not known")
    return [np.zeros(view.shape, np.bool_)]


def _shape(call: Call) -> list[Value]:
    shape = call.view(0).shape
    start, end = call.attributes.get("start", 0), call.attributes.get("end", len(shape))
    return [np.array(shape[start:end], np.int64)]


def _size(call: Call) -> list[Value]:
    return [np.array(call.view(0).ids.size, np.int64)]


INTEGERS = (
    onnx.TensorProto.INT8,
    onnx.TensorProto.INT16,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.UINT16,
    onnx.TensorProto.UINT32,
    onnx.TensorProto.UINT64,
)
"""Element types that hold the number of every expert there can be."""

ELEMENTWISE = {
    "Add": Operator(_add, 2),
    # Saturation and its rounding are of casts to 8 bit floats, which are refused.
    "Cast": Operator(_cast, 1, ("to",), {"saturate": ANY, "round_mode": ANY}),
    "CastLike": Operator(_cast_like, 2, (), {"saturate": ANY, "round_mode": ANY}),
    "Clip": Operator(_clip, 3),
    "Div": Operator(_divide, 2),
    "Dropout": Operator(_dropout, 3, (), {"seed": ANY}),  # the ratio is for training
    "Erf": Operator(_unary("erf"), 1),
    "Exp": Operator(_unary("exp"), 1),
    "Gelu": Operator(_gelu, 1, ("approximate",)),
    "HardSigmoid": Operator(_hard_sigmoid, 1, ("alpha", "beta")),
    "HardSwish": Operator(_hard_swish, 1),
    "IsInf": Operator(_is_nan, 1, (), {"detect_negative": ANY, "detect_positive": ANY}),
    "IsNaN": Operator(_is_nan, 1),
    "Mod": Operator(_modulo, 2, (), {"fmod": ANY}),
    "Mul": Operator(_multiply, 2),
    "Neg": Operator(_negate, 1),
    "Pow": Operator(_power, 2),
    "Reciprocal": Operator(_reciprocal, 1),
    "Relu": Operator(_unary("relu"), 1),
    "Shape": Operator(_shape, 1, ("start", "end")),
    "Sigmoid": Operator(_unary("sigmoid"), 1),
    "Size": Operator(_size, 1),
    "Sqrt": Operator(_unary("sqrt"), 1),
    "Sub": Operator(_subtract, 2),
    "Sum": Operator(_add, None),
    "Swish": Operator(_swish, 1, ("alpha",)),
    "Tanh": Operator(_unary("tanh"), 1),
}
