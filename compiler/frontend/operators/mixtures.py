"""com.microsoft.MoE, and QMoE, whose weights are integers: a router and its experts in one node.

They are taken as ONNX Runtime's kernels for processors compute them, which results are compared
with: what those do not run is refused.
"""

from __future__ import annotations

import math

import numpy as np

from moesaic.compiler.frontend.algebra import Value
from moesaic.compiler.frontend.choices import ExpertLinear, Experts, SwiGlu
from moesaic.compiler.frontend.operators.call import Call, Operator
from moesaic.compiler.frontend.operators.packed import Packing, read_bias
from moesaic.compiler.frontend.views import NotRecognised

ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swiglu": "silu"}
"""ONNX Runtime's own kernels take the tanh form for "gelu"."""


def _read_floats(call: Call, index: int, inputs: int) -> list[ExpertLinear]:
    """Return the layer of each expert, from weights at ``index`` and biases behind them."""
    weight = np.asarray(call.constant(index, "expert weights"), np.float32)
    if weight.ndim != 3 or weight.shape[2] != inputs:
        expected = f"[experts, outputs, {inputs}]"
        raise NotRecognised(f"its expert weights must be {expected}, not {list(weight.shape)}")
    bias = read_bias(call, index + 1, weight.shape[:2])
    return [ExpertLinear(*parts) for parts in zip(weight, bias, strict=True)]


def _moe(call: Call) -> list[Value]:
    if any(value is not None for value in call.inputs[6:]):
        raise NotRecognised("fc3 is not supported")
    channels = call.view(0).shape[-1]
    up = _read_floats(call, 2, channels)
    down = _read_floats(call, 4, _hidden(call, up))
    return _mixture(call, up, down, bool(call.attributes.get("normalize_routing_weights", 0)))


def _qmoe(call: Call) -> list[Value]:
    inputs, attributes = call.inputs, call.attributes
    if any(value is not None for value in (*inputs[8:11], *inputs[13:14])):
        raise NotRecognised("fc3 is not supported")
    if any(value is not None for value in inputs[14:]):
        raise NotRecognised(
            "router_weights and scales of other types than integers are not supported"
        )
    if not attributes.get("normalize_routing_weights", 0):
        raise NotRecognised(
            "normalize_routing_weights must be 1: ONNX Runtime's kernels disagree on QMoE without "
            "it, and the one for processors normalises all the same"
        )
    packing = Packing.of(call)
    up = packing.read(call, 2, 11, call.view(0).shape[-1])
    down = packing.read(call, 5, 12, _hidden(call, up))
    return _mixture(call, up, down, True, quantised=True)


def _hidden(call: Call, up: list[ExpertLinear]) -> int:
    """Return how many inputs the second layer of an expert has."""
    outputs = up[0].weight.shape[0] if up else 0
    if call.attributes.get("activation_type") != "swiglu":
        return outputs
    if outputs % 2:
        raise NotRecognised(f"its {outputs} rows of fc1 must be pairs for 'swiglu'")
    return outputs // 2


def _mixture(
    call: Call,
    up: list[ExpertLinear],
    down: list[ExpertLinear],
    renormalise: bool,
    quantised: bool = False,
) -> list[Value]:
    rows, attributes = call.view(0), call.attributes
    channels = rows.shape[-1]
    logits = call.view(1).reshape(-1, call.view(1).shape[-1])
    activation = attributes.get("activation_type", "relu")
    if activation not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise NotRecognised(f"activation_type must be one of {known}, not {activation!r}")
    router = logits.shape[1]
    if not len(up) == len(down) == router:
        raise NotRecognised(
            f"its router scores {router} experts but it holds {len(up)} (fc1) and {len(down)} "
            "(fc2): export the model with all experts"
        )
    if down[0].weight.shape[0] != channels:
        outputs = down[0].weight.shape[0]
        raise NotRecognised(f"its experts give {outputs} channels, where it reads {channels}")
    swiglu = None
    wanted = 1 if activation == "swiglu" else 0
    if attributes.get("swiglu_fusion", 0) != wanted:
        raise NotRecognised(
            f"swiglu_fusion must be {wanted} with {activation!r}, which is what ONNX Runtime runs "
            "on processors: store the rows of gates and their factors in turn in fc1"
        )
    if activation == "swiglu":
        factors, up = _every_other(up, 1), _every_other(up, 0)
        alpha = float(attributes.get("activation_alpha", 1.0))
        beta = float(attributes.get("activation_beta", 0.0))
        if not alpha > 0:
            raise NotRecognised(f"activation_alpha must be above 0, not {alpha:g}")
        limit = float(attributes.get("swiglu_limit", math.inf))
        swiglu = SwiGlu(factors, alpha, beta, limit)
    source = Experts(
        call.algebra.node,
        call.algebra.name,
        rows.ids.size,
        rows=rows.reshape(-1, channels),
        logits=logits,
        up=up,
        down=down,
        top_k=int(attributes.get("k", 1)),
        renormalise=renormalise,
        activation=ACTIVATIONS[activation],
        swiglu=swiglu,
        quantised=quantised,
    )
    call.algebra.arena.add(source)
    return [call.algebra.arena.view(source, rows.shape)]


def _every_other(linears: list[ExpertLinear], first: int) -> list[ExpertLinear]:
    """Return every other row of each layer."""
    rows = slice(first, None, 2)
    return [
        ExpertLinear(x.weight[rows], x.bias[rows], None if x.codes is None else x.codes[rows])
        for x in linears
    ]


_ATTRIBUTES = (
    "activation_alpha",
    "activation_beta",
    "activation_type",
    "k",
    "normalize_routing_weights",
    "swiglu_fusion",
    "swiglu_limit",
)
_FIXED = {"use_sparse_mixer": (0,), "swiglu_limit_after_activation": (0,)}
MIXTURES = {
    ("com.microsoft", "MoE"): Operator(_moe, None, _ATTRIBUTES, _FIXED),
    ("com.microsoft", "QMoE"): Operator(
        _qmoe,
        None,
        (*_ATTRIBUTES, "accuracy_level", "block_size", "expert_weight_bits"),
        # Weights that are laid out for another processor say 1.
        {**_FIXED, "quant_type": ("int",), "weights_prepacked": (-1, 0)},
    ),
}
