"""ONNX operators that stand for several: Attention (and Einsum, elsewhere)."""

from __future__ import annotations

import numpy as np

from moesaic.compiler.frontend.algebra import Algebra, Value, as_view, softmax, transpose
from moesaic.compiler.frontend.operators.call import ANY, Call, Operator
from moesaic.compiler.frontend.operators.einsum import einsum
from moesaic.compiler.frontend.views import NotRecognised, View


def split_heads(value: View, count: int) -> View:
    """Bring [1, S, heads * D] or [1, heads, S, D] into [heads, S, D]."""
    if value.shape[0] != 1 or len(value.shape) not in (3, 4):
        raise NotRecognised(f"its operands must have a batch of 1, not shape {value.shape}")
    if len(value.shape) == 4:
        return value[0]
    if not count or value.shape[2] % count:
        raise NotRecognised(f"{value.shape[2]} columns do not divide into {count} heads")
    split = value[0].reshape(value.shape[1], count, -1)
    return as_view(transpose(split, [1, 0, 2]))


def attend(algebra: Algebra, query: View, key: View, value: View, scale: float) -> View:
    """Return ``softmax(scale * query @ key.T) @ value``, each [heads, tokens, columns]."""
    scores = algebra.matmul(query.affine(scale, 0.0), key.swap_last())
    return as_view(algebra.matmul(softmax(algebra, as_view(scores), 2), value))


def _attention(call: Call) -> list[Value]:
    """Scaled dot-product attention; shared key and value heads are repeated."""
    attributes = call.attributes
    if any(value is not None for value in call.inputs[3:]):
        raise NotRecognised("a mask or a key-value cache is not supported")
    if attributes.get("scale") == 0:
        raise NotRecognised("attribute 'scale' must not be 0")
    flat = len(call.view(0).shape) == 3
    counts = attributes.get("q_num_heads", 0), attributes.get("kv_num_heads", 0)
    query = split_heads(call.view(0), counts[0])
    key, value = (split_heads(call.view(index), counts[1]) for index in (1, 2))
    if query.shape[0] % key.shape[0]:
        raise NotRecognised(f"{query.shape[0]} query heads do not share {key.shape[0]} key heads")
    shared = np.arange(query.shape[0]) // (query.shape[0] // key.shape[0])
    scale = attributes.get("scale") or query.shape[2] ** -0.5
    mixed = attend(call.algebra, query, key[shared], value[shared], scale)
    if flat:
        tokens = as_view(transpose(mixed, [1, 0, 2]))
        return [tokens.reshape(1, tokens.shape[0], -1)]
    return [mixed.reshape(1, *mixed.shape)]


COMPOSITES = {
    ("", "Attention"): Operator(
        _attention,
        None,
        ("q_num_heads", "kv_num_heads", "scale"),
        # What the fourth output holds, and how exact the softmax at least is.
        {
            "is_causal": (0,),
            "softcap": (0.0,),
            "qk_matmul_output_mode": ANY,
            "softmax_precision": ANY,
        },
    ),
    ("", "Einsum"): Operator(einsum, None, ("equation",)),
}
