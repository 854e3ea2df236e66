"""Matrix products and convolutions: all become products of rows with constant weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.frontend.algebra import Value, as_view
from moesaic.compiler.frontend.operators.call import Call, Operator
from moesaic.compiler.frontend.views import NotRecognised, View, check_elements


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
    if tuple(call.attributes.get("kernel_shape", weight.shape[2:])) != weight.shape[2:]:
        raise NotRecognised(f"kernel_shape must be that of its weight, {weight.shape[2:]}")
    if call.attributes.get("auto_pad", "NOTSET") == "NOTSET" and any(
        call.attributes.get("pads", [])
    ):
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

    places = np.prod(
        [(n - r) // s + 1 for n, r, s in zip(image.shape[2:], reach, strides, strict=True)],
        dtype=object,
    )
    check_elements(int(places) * int(np.prod(weight.shape[1:])), "its patches")
    patches = image.each(unfold)
    result = call.algebra.product(patches, weight.reshape(weight.shape[0], -1))
    if (bias := call.optional(2)) is not None:
        result = as_view(call.algebra.add(result, bias))
    return [result.move_back(0).reshape(1, result.shape[-1], *result.shape[:-1])]


PRODUCTS = {
    "Conv": Operator(
        _convolution,
        3,
        ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"),
    ),
    "Gemm": Operator(_gemm, 3, ("alpha", "beta", "transA", "transB")),
    "MatMul": Operator(_matmul, 2),
}
