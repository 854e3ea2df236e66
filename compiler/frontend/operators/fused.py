"""What ONNX Runtime's optimizers fuse into operators of their own, domain com.microsoft."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesaic.compiler.frontend.algebra import Value, as_view
from moesaic.compiler.frontend.operators.call import ANY, Call, Operator
from moesaic.compiler.frontend.operators.composite import attend, split_heads
from moesaic.compiler.frontend.operators.reductions import normalise
from moesaic.compiler.frontend.views import NotRecognised, View


def _with_bias(call: Call, index: int) -> Value:
    """Return the first input plus the one at `index`, if that is there."""
    bias = call.optional(index)
    value = call.value(0)
    return value if bias is None else call.algebra.add(value, bias)


def _gelu(function: str, bias: bool) -> Operator:
    def run(call: Call) -> list[Value]:
        return [call.algebra.unary(function, as_view(_with_bias(call, 1)))]

    return Operator(run, 2 if bias else 1)


def _quick_gelu(call: Call) -> list[Value]:
    """``x * sigmoid(alpha * x)``; recognition says how far that is from GELU."""
    x = call.view(0)
    gate = call.algebra.unary("sigmoid", x.affine(call.attributes.get("alpha", 1.702), 0.0))
    return [call.algebra.times(x, gate)]


def _skip_layer_norm(call: Call) -> Sequence[Value | None]:
    """A sum of two or three and its LayerNorm; the mean and the deviation are not made."""
    total = call.algebra.add(call.value(0), call.value(1))
    if (bias := call.optional(4)) is not None:
        total = call.algebra.add(total, bias)
    beta = None if call.optional(3) is None else call.constant(3, "beta")
    epsilon = float(call.attributes.get("epsilon", 1e-12))
    rows = as_view(total)
    normal = normalise(call.algebra, rows, rows.shape[-1], epsilon, call.constant(2, "gamma"), beta)
    return [normal, None, None, total]


def _require_no(call: Call, inputs: dict[int, str]) -> None:
    for index, what in inputs.items():
        if call.optional(index) is not None:
            raise NotRecognised(f"{what} (input {index}) is not supported")


def _attention(call: Call) -> list[Value]:
    """Query, key and value in one product, and attention on them."""
    _require_no(
        call, {3: "a mask", 4: "a key-value cache", 5: "a bias of the scores", 6: "a cache"}
    )
    heads = int(call.attributes["num_heads"])
    weight = np.asarray(call.constant(1, "weights"))
    sizes = call.attributes.get("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3
    if len(sizes) != 3 or sum(sizes) != weight.shape[1]:
        raise NotRecognised(f"qkv_hidden_sizes {list(sizes)} do not fit {weight.shape[1]} columns")
    joint = call.algebra.matmul(call.value(0), weight)
    if call.optional(2) is not None:
        joint = call.algebra.add(joint, call.constant(2, "bias"))
    ends = np.cumsum(sizes)
    parts = [as_view(joint)[..., end - size : end] for size, end in zip(sizes, ends, strict=True)]
    return [_attend(call, parts, heads)]


def _multi_head_attention(call: Call) -> list[Value]:
    """Attention on query, key and value [1, tokens, columns] and their common bias."""
    _require_no(
        call, {4: "a mask", 5: "a bias of the scores", 6: "a key-value cache", 7: "a cache"}
    )
    _require_no(call, {8: "a cache", 9: "a cache"})
    parts = [call.view(index) for index in range(3)]
    if any(len(part.shape) != 3 for part in parts):
        raise NotRecognised("packed query, key and value are not supported: pass three matrices")
    if call.optional(3) is not None:
        bias = np.asarray(call.constant(3, "bias"))
        ends = np.cumsum([part.shape[2] for part in parts])
        if bias.shape != (ends[-1],):
            raise NotRecognised(f"its bias must have {ends[-1]} elements, not {bias.shape}")
        pieces = np.split(bias, ends[:-1])
        parts = [part.affine(1.0, piece) for part, piece in zip(parts, pieces, strict=True)]
    return [_attend(call, parts, int(call.attributes["num_heads"]))]


def _attend(call: Call, parts: list[View], heads: int) -> Value:
    query, key, value = (split_heads(part, heads) for part in parts)
    scale = call.attributes.get("scale") or query.shape[2] ** -0.5
    mixed = attend(call.algebra, query, key, value, scale)
    tokens = mixed.transpose(1, 0, 2)
    return tokens.reshape(1, tokens.shape[0], -1)


def _fused_matmul(call: Call) -> list[Value]:
    def operand(index: int, side: str) -> Value:
        value = call.value(index)
        rank = len(np.shape(value) if not isinstance(value, View) else value.shape)
        order = list(range(rank))
        if call.attributes.get(f"transBatch{side}", 0):  # the first axis comes behind the batch
            order = [*order[1:-1], 0, rank - 1]
        if call.attributes.get(f"trans{side}", 0):
            order[-2:] = order[:-3:-1]
        return value.transpose(*order)

    product = call.algebra.matmul(operand(0, "A"), operand(1, "B"))
    return [call.algebra.scale(product, call.attributes.get("alpha", 1.0))]


_NO_MASK = {"mask_filter_value": ANY, "unidirectional": (0,)}
"""Without a mask it does not matter what a mask is filled with."""

FUSED = {
    ("com.microsoft", name): operator
    for name, operator in {
        "Attention": Operator(
            _attention,
            7,
            ("num_heads", "qkv_hidden_sizes", "scale"),
            {
                **_NO_MASK,
                "do_rotary": (0,),
                "past_present_share_buffer": (0,),
                "rotary_embedding_dim": (0,),
            },
        ),
        "BiasGelu": _gelu("gelu", bias=True),
        "FastGelu": _gelu("gelu_tanh", bias=True),
        "FusedMatMul": Operator(
            _fused_matmul,
            2,
            ("alpha", "transA", "transB", "transBatchA", "transBatchB"),
        ),
        "Gelu": _gelu("gelu", bias=False),
        "MultiHeadAttention": Operator(
            _multi_head_attention, 10, ("num_heads", "scale"), dict(_NO_MASK)
        ),
        "QuickGelu": Operator(_quick_gelu, 1, ("alpha",)),
        "SkipLayerNormalization": Operator(_skip_layer_norm, 5, ("epsilon",)),
    }.items()
}
