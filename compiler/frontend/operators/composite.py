"""ONNX operators that stand for several: Attention, com.microsoft.MoE (and Einsum, elsewhere)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.frontend.algebra import Algebra, Value, as_view, softmax, transpose
from moesaic.compiler.frontend.choices import Experts
from moesaic.compiler.frontend.operators.call import ANY, Call, Operator
from moesaic.compiler.frontend.operators.einsum import einsum
from moesaic.compiler.frontend.views import NotRecognised, View
from moesaic.compiler.ir import FloatArray

NODE_ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu"}
"""Of com.microsoft.MoE: ONNX Runtime's own kernels take the tanh form for "gelu"."""


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


def _matrices(
    call: Call, index: int, inputs: int, outputs: int | None
) -> list[tuple[FloatArray, FloatArray]]:
    """Return weight [outputs, inputs] and bias of each expert from inputs `index`, `index + 1`."""
    weight = np.asarray(call.constant(index, "expert weights"), np.float32)
    if weight.ndim != 3 or weight.shape[2] != inputs or outputs not in (None, weight.shape[1]):
        expected = f"[experts, {outputs or 'hidden'}, {inputs}]"
        raise NotRecognised(f"its expert weights must be {expected}, not {list(weight.shape)}")
    if call.optional(index + 1) is None:
        bias: NDArray[np.float32] = np.zeros(weight.shape[:2], np.float32)
    else:
        bias = np.asarray(call.constant(index + 1, "expert biases"), np.float32)
    if bias.shape != weight.shape[:2]:
        raise NotRecognised(
            f"its expert biases must be {list(weight.shape[:2])}, not {list(bias.shape)}"
        )
    return list(zip(weight, bias, strict=True))


def _microsoft_moe(call: Call) -> list[Value]:
    rows = call.view(0)
    channels = rows.shape[-1]
    logits = call.view(1).reshape(-1, call.view(1).shape[-1])
    attributes = call.attributes
    activation = attributes.get("activation_type", "relu")
    if activation not in NODE_ACTIVATIONS:
        known = ", ".join(map(repr, NODE_ACTIVATIONS))
        raise NotRecognised(f"activation_type must be one of {known}, not {activation!r}")
    if any(value is not None for value in call.inputs[6:]):
        raise NotRecognised("fc3 is not supported")
    up = _matrices(call, 2, channels, None)
    down = _matrices(call, 4, up[0][0].shape[0], channels)
    router = logits.shape[1]
    if not len(up) == len(down) == router:
        raise NotRecognised(
            f"its router scores {router} experts but it holds {len(up)} (fc1) and {len(down)} "
            "(fc2): export the model with all experts"
        )
    source = Experts(
        call.algebra.node,
        call.algebra.name,
        rows.ids.size,
        rows=rows.reshape(-1, channels),
        logits=logits,
        up=up,
        down=down,
        top_k=int(attributes.get("k", 1)),
        renormalise=bool(attributes.get("normalize_routing_weights", 0)),
        activation=NODE_ACTIVATIONS[activation],
    )
    call.algebra.arena.add(source)
    return [call.algebra.arena.view(source, rows.shape)]


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
    ("com.microsoft", "MoE"): Operator(
        _microsoft_moe,
        None,
        ("activation_type", "k", "normalize_routing_weights"),
        # Alpha, beta and limit are of SwiGLU, which is refused.
        {
            "use_sparse_mixer": (0,),
            "swiglu_fusion": (0,),
            "activation_alpha": ANY,
            "activation_beta": ANY,
            "swiglu_limit": ANY,
        },
    ),
}
