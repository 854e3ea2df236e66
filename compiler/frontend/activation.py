"""Recognising GELU by what it computes, however it is written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from moesaic.compiler.frontend.operators import Note
from moesaic.compiler.frontend.operators.composite import TANH_NOTE
from moesaic.compiler.frontend.read import LinearReading, per_column, read_linear
from moesaic.compiler.frontend.views import (
    Arena,
    NotRecognised,
    Product,
    RealArray,
    Sum,
    Times,
    Unary,
    View,
)

SAMPLES = np.linspace(-7.0, 7.0, 113)
TOLERANCE = 2e-6
"""Largest difference from GELU; constants of exported graphs are rounded to float32."""


def _torch(function: Callable[..., torch.Tensor]) -> Callable[[RealArray], RealArray]:
    return lambda x: function(torch.from_numpy(np.array(x, np.float64))).numpy()


gelu = _torch(torch.nn.functional.gelu)
gelu_tanh = _torch(lambda x: torch.nn.functional.gelu(x, approximate="tanh"))

FUNCTIONS: dict[str, Callable[[RealArray], RealArray]] = {
    "erf": _torch(torch.erf),
    "exp": np.exp,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "reciprocal": lambda x: 1.0 / x,
    "relu": lambda x: np.maximum(x, 0.0),
    "sigmoid": _torch(torch.sigmoid),
    "sqrt": np.sqrt,
    "tanh": np.tanh,
}


def _operands(arena: Arena, view: View) -> list[View]:
    """Return what an elementwise source works on, at the elements of `view` (none: a product)."""
    source = arena.source_of(view)
    plain = view.plain
    if isinstance(source, Unary):
        return [arena.inside(plain, source.argument)]
    if isinstance(source, Times):
        return [arena.inside(plain, source.left), arena.inside(plain, source.right)]
    if isinstance(source, Sum):
        return [arena.inside(plain, term) for term in source.terms]
    if isinstance(source, Product):
        return []
    raise NotRecognised(f"{source.node} is not an activation of a linear layer")


def _leaves(arena: Arena, view: View) -> list[View]:
    """Return the views of products that elementwise arithmetic on `view` starts from."""
    per_column(view.scale, "scale")
    per_column(view.offset, "offset")
    operands = _operands(arena, view)
    return [leaf for operand in operands for leaf in _leaves(arena, operand)] or [view]


def _compute(arena: Arena, view: View, product: RealArray) -> RealArray:
    """Evaluate [1, C] elements for [samples, C] values of the products under them."""
    source = arena.source_of(view)
    operands = [_compute(arena, operand, product) for operand in _operands(arena, view)]
    if isinstance(source, Unary):
        with np.errstate(all="ignore"):
            value = FUNCTIONS[source.function](operands[0])
    elif isinstance(source, Times):
        value = operands[0] * operands[1]
    elif isinstance(source, Sum):
        value = np.sum(operands, axis=0)
    else:
        value = product
    return view.scale * value + view.offset


def read_activation(arena: Arena, view: View) -> tuple[LinearReading, Note | None]:
    """Read [R, C] values as GELU of a linear layer.

    Returns the linear layer and a note if GELU is written in its tanh approximation. The
    arithmetic between both is sampled over -7 to 7 in every column and compared.

    Raises
    ------
    NotRecognised
        It is not elementwise arithmetic on one linear layer, or not GELU.
    """
    node = arena.source_of(view).node
    leaves = _leaves(arena, view)
    if len(leaves) == 1 and leaves[0] is view:
        raise NotRecognised(
            f"{node} follows a linear layer without an activation between them; merge the two"
        )
    if any(not np.array_equal(leaf.ids, leaves[0].ids) for leaf in leaves):
        raise NotRecognised(f"{node} combines several values, which GELU does not")
    row = view[:1]
    deviation = np.inf
    for leaf in leaves:
        scale, offset = leaf.scale[:1], leaf.offset[:1]
        # The pre-activation may itself be what is scaled, or the scale belongs to the formula.
        for factor in (1.0, 1.0 / np.where(scale == 0, 1.0, scale), 2.0):
            product = (SAMPLES[:, None] - offset * factor) / (scale * factor)
            computed = _compute(arena, row, product)
            for form in (gelu, gelu_tanh):
                difference = np.abs(computed - form(SAMPLES)[:, None]).max()
                if difference < TOLERANCE:
                    before = leaf.affine(np.broadcast_to(factor, scale.shape), 0.0)
                    note = (TANH_NOTE, node) if form is gelu_tanh else None
                    return read_linear(arena, before), note
                deviation = min(deviation, float(difference))
    raise NotRecognised(
        f"the activation at {node} must be GELU, but differs from it by up to {deviation:.2g}: "
        "train the model with GELU"
    )
