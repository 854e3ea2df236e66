"""Small vision transformers written by hand in ONNX, each part in any of several forms.

One file, though a long one: every form is a method of the one builder that holds the graph's nodes
and constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, HEADS, HIDDEN, EXPERTS, TOP_K = 12, 3, 10, 4, 2
HEIGHT, WIDTH, PATCH = 8, 12, 4
PATCHES = (HEIGHT // PATCH) * (WIDTH // PATCH)
SCALE = (CHANNELS // HEADS) ** -0.5


ACTIVATION_FORMS: dict[str, Callable[[Any, str], str]] = {
    "relu": lambda vit, x: vit.op("Relu", x),
    "clipped": lambda vit, x: vit.op("Clip", x, vit.const(0.0)),
    "clipped at one": lambda vit, x: vit.op(
        "Sub", vit.op("Clip", vit.op("Add", x, vit.const(1.0)), vit.const(1.0)), vit.const(1.0)
    ),
    "clipped to one number": lambda vit, x: vit.op(
        "Mul", vit.op("Relu", x), vit.op("Clip", x, vit.const(2.0), vit.const(1.0))
    ),
    "largest": lambda vit, x: vit.op("Max", x, vit.const(0.0)),
    "silu": lambda vit, x: vit.op("Mul", vit.op("Sigmoid", x), x),
    "silu divided": lambda vit, x: vit.op(
        "Div", x, vit.op("Add", vit.const(1.0), vit.op("Exp", vit.op("Neg", x)))
    ),
    "silu of minus x": lambda vit, x: vit.op(
        "Div", vit.op("Neg", x), vit.op("Add", vit.const(1.0), vit.op("Exp", x))
    ),
    "gelu of minus x": lambda vit, x: vit.op(
        "Mul",
        vit.op("Mul", x, vit.const(-0.5)),
        vit.op("Sub", vit.const(1.0), vit.op("Erf", vit.op("Div", x, vit.const(2**0.5)))),
    ),
    "relu times x": lambda vit, x: vit.op("Mul", x, vit.op("Relu", x)),
    "relu squared": lambda vit, x: vit.op("Pow", vit.op("Relu", x), vit.const(2.0)),
    "hard swish": lambda vit, x: vit.op("HardSwish", x),
    "hard sigmoid": lambda vit, x: vit.op(
        "Mul", x, vit.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    ),
    "six": lambda vit, x: vit.op(
        "Div",
        vit.op(
            "Mul",
            x,
            vit.op("Clip", vit.op("Add", x, vit.const(3.0)), vit.const(0.0), vit.const(6.0)),
        ),
        vit.const(6.0),
    ),
}
"""Activations beside GELU, written in several ways."""


@dataclass
class Vit:
    """One attention block and one MLP or mixture of experts; every field names a form."""

    embed: str = "conv"
    class_token: str = "first"
    linear: str = "matmul"
    norm: str = "node"
    attention: str = "joint"
    scale: str = "query"
    gelu: str = "node"
    pairs: str = ""
    mlp: str = "dense"
    head: str = "drop"
    residual: str = "stream first"
    stream: str = "pre-norm"
    opset: int = 20
    seed: int = 0
    experts: int = EXPERTS
    batch: int | str = 1
    half: bool = False
    """Activations are rounded to float16 in front of every activation function."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    # -- pieces of ONNX -------------------------------------------------------------------

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def draw(self, *shape: int, std: float = 0.5) -> np.ndarray:
        return self.rng.normal(0, std, shape).astype(np.float32)

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def fused(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any):
        """An operator of ONNX Runtime's own."""
        return self.op(kind, *inputs, outputs=outputs, domain="com.microsoft", **attributes)

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.ints(*shape))

    def transpose(self, x: str, *order: int) -> str:
        return self.op("Transpose", x, perm=order)

    def slice(self, x: str, axis: int, start: int, end: int) -> str:
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis))

    # -- layers ---------------------------------------------------------------------------

    def dense(self, x: str, inputs: int, outputs: int, std: float | None = None) -> str:
        """A linear layer on [1, T, inputs]."""
        weight = self.draw(inputs, outputs, std=std or inputs**-0.5)
        bias = self.draw(outputs, std=0.2)
        if self.linear == "matmul":
            return self.op("Add", self.op("MatMul", x, self.const(weight)), self.const(bias))
        if self.linear == "commuted":
            return self.op("Add", self.const(bias), self.op("MatMul", x, self.const(weight)))
        if self.linear == "no bias":
            return self.op("MatMul", x, self.const(weight))
        if self.linear == "from the left":
            columns = self.op("MatMul", self.const(weight.T), self.transpose(x, 0, 2, 1))
            return self.transpose(self.op("Add", columns, self.const(bias[:, None])), 0, 2, 1)
        rows = self.op("Squeeze", x, self.ints(0))
        if self.linear == "gemm":
            result = self.op("Gemm", rows, self.const(weight.T), self.const(bias), transB=1)
        elif self.linear == "scaled gemm":
            result = self.op(
                "Gemm", rows, self.const(weight), self.const(bias), alpha=0.5, beta=2.0
            )
        elif self.linear == "einsum":
            result = self.op("Einsum", rows, self.const(weight.T), equation="ti,oi->to")
            result = self.op("Sum", result, self.const(bias))
        else:
            raise AssertionError(self.linear)
        return self.op("Unsqueeze", result, self.ints(0))

    def layer_norm(self, x: str, epsilon: float = 1e-6) -> str:
        gamma, beta = self.const(1 + self.draw(CHANNELS)), self.const(self.draw(CHANNELS))
        if self.norm == "node":
            return self.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=epsilon)
        if self.norm == "without beta":
            return self.op("LayerNormalization", x, gamma, axis=2, epsilon=epsilon)
        mean = self.op("ReduceMean", x, self.ints(-1))
        centred = self.op("Sub", x, mean)
        if self.norm == "power":
            square = self.op("Pow", centred, self.const(2.0))
        else:
            other = self.op("Sub", x, self.op("ReduceMean", x, self.ints(2)))
            square = self.op("Mul", centred, other)
        variance = self.op("ReduceMean", square, self.ints(-1))
        deviation = self.op("Sqrt", self.op("Add", self.const(epsilon), variance))
        if self.norm == "reciprocal":
            normal = self.op("Mul", self.op("Reciprocal", deviation), centred)
            return self.op("Add", beta, self.op("Mul", gamma, normal))
        if self.norm == "sum":
            total = self.op("ReduceSum", square, self.ints(-1))
            variance = self.op("Div", total, self.const(CHANNELS))
            shifted = self.op("Add", variance, self.const(epsilon))
            normal = self.op("Mul", centred, self.op("Pow", shifted, self.const(-0.5)))
            return self.op("Add", self.op("Mul", normal, gamma), beta)
        assert self.norm in ("power", "arithmetic"), self.norm
        return self.op("Add", self.op("Mul", self.op("Div", centred, deviation), gamma), beta)

    def activation(self, x: str) -> str:
        root, half, one = self.const(2**0.5), self.const(0.5), self.const(1.0)
        if self.half:
            x = self.op("Cast", self.op("Cast", x, to=TensorProto.FLOAT16), to=TensorProto.FLOAT)
        if self.gelu in ("node", "tanh node"):
            return self.op("Gelu", x, approximate="none" if self.gelu == "node" else "tanh")
        if self.gelu == "fused":
            return self.fused("Gelu", x)
        if self.gelu in ("fused with bias", "tanh fused"):
            kind = "BiasGelu" if self.gelu == "fused with bias" else "FastGelu"
            return self.fused(kind, x, self.const(self.draw(HIDDEN, std=0.2)))
        if self.gelu == "quick":
            return self.fused("QuickGelu", x, alpha=1.702)
        if self.gelu == "torch":  # x * 0.5 * (1 + erf(x / sqrt 2))
            gate = self.op("Add", self.op("Erf", self.op("Div", x, root)), one)
            return self.op("Mul", self.op("Mul", x, half), gate)
        if self.gelu == "half last":
            scaled = self.op("Mul", self.const(0.5**0.5), x)
            gate = self.op("Add", one, self.op("Erf", scaled))
            return self.op("Mul", self.op("Mul", gate, x), half)
        if self.gelu == "half gate":
            gate = self.op(
                "Mul", half, self.op("Add", one, self.op("Erf", self.op("Div", x, root)))
            )
            return self.op("Mul", gate, x)
        if self.gelu == "tanh arithmetic":
            cubic = self.op("Mul", self.const(0.044715), self.op("Pow", x, self.const(3.0)))
            inner = self.op("Mul", self.op("Add", x, cubic), self.const((2 / np.pi) ** 0.5))
            gate = self.op("Add", self.op("Tanh", inner), one)
            return self.op("Mul", half, self.op("Mul", x, gate))
        if self.gelu == "sigmoid":
            return self.op("Mul", x, self.op("Sigmoid", self.op("Mul", x, self.const(1.702))))
        if self.gelu == "other sigmoid":
            return self.op("Mul", x, self.op("Sigmoid", self.op("Mul", x, self.const(1.6))))
        if self.gelu == "other maximum":
            return self.op("Max", self.const(0.1), x)
        if self.gelu == "elu":
            return self.op("Elu", x)
        if self.gelu in ACTIVATION_FORMS:
            return ACTIVATION_FORMS[self.gelu](self, x)
        assert self.gelu == "none", self.gelu
        return x

    def perceptron(self, x: str) -> str:
        if self.pairs == "one product":
            both = self.dense(x, CHANNELS, 2 * HIDDEN)
            up, factor = (self.cut(both, HIDDEN * i, HIDDEN * (i + 1)) for i in range(2))
        else:
            up = self.dense(x, CHANNELS, HIDDEN)
            factor = self.dense(x, CHANNELS, HIDDEN) if self.pairs else ""
        hidden = self.activation(up)
        if self.pairs:
            pair = (factor, hidden) if self.pairs == "factor first" else (hidden, factor)
            hidden = self.op("Mul", *pair)
        return self.dense(hidden, HIDDEN, CHANNELS)

    def cut(self, x: str, start: int, end: int) -> str:
        """Columns ``start`` to ``end`` of the last axis."""
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(-1))

    def add(self, stream: str, branch: str) -> str:
        operands = (stream, branch) if self.residual == "stream first" else (branch, stream)
        if self.residual == "layer scale":
            operands = stream, self.op("Mul", branch, self.const(self.draw(CHANNELS)))
        if self.residual == "constant after":
            total = self.op("Add", *operands)
            return self.op("Add", self.const(self.draw(CHANNELS)), total)
        if self.residual == "constant before":
            operands = self.op("Add", stream, self.const(self.draw(CHANNELS))), branch
        return self.op("Add", *operands)

    def skip_norm(self, stream: str, branch: str) -> tuple[str, str]:
        """A residual sum and its LayerNorm in one node: normalised, sum."""
        inputs = [branch, stream, self.const(1 + self.draw(CHANNELS)), ""]
        if self.residual == "fused with bias":
            inputs[3] = self.const(self.draw(CHANNELS))
            inputs.append(self.const(self.draw(CHANNELS)))
        normal, _, _, total = self.fused("SkipLayerNormalization", *inputs, outputs=4, epsilon=1e-6)
        self.nodes[-1].output[1] = self.nodes[-1].output[2] = ""
        return normal, total

    def feed_forward(self, x: str, count: int) -> str:
        return self.perceptron(x) if self.mlp == "dense" else self.mixture(x, count)

    def branches(self, x: str, count: int) -> str:
        """Attention and MLP added at once; in some forms each behind a norm of its own."""
        first = second = self.layer_norm(x)
        if self.residual in ("parallel norms", "parallel epsilons"):
            epsilon = 1e-6 if self.residual == "parallel norms" else 1e-5
            second = self.layer_norm(x, epsilon)
        mixed = self.mix(first, count)
        if self.residual == "parallel thrice":
            mixed = self.op("Add", mixed, self.perceptron(first))
        if self.residual == "parallel in turn":  # nobody normalises the sum between
            return self.op("Add", self.op("Add", x, mixed), self.feed_forward(second, count))
        total = self.op("Add", self.feed_forward(second, count), mixed)
        if self.residual == "parallel scaled":
            total = self.op("Mul", self.op("Add", total, self.const(self.draw(CHANNELS))),
                            self.const(self.draw(CHANNELS)))  # fmt: skip
        return self.op("Add", x, total)

    # -- the whole model ------------------------------------------------------------------

    def tokens(self, x: str) -> tuple[str, int]:
        """Patch embedding, class token and position embedding: [1, T, channels], T."""
        size = 3 * PATCH * PATCH
        grid = HEIGHT // PATCH, WIDTH // PATCH
        if self.embed in ("conv", "normalised conv"):
            if self.embed != "conv":
                mean = self.const(self.draw(1, 3, 1, 1))
                spread = self.const(1 + 0.1 * self.draw(1, 3, 1, 1))
                x = self.op("Div", self.op("Sub", x, mean), spread)
            weight = self.const(self.draw(CHANNELS, 3, PATCH, PATCH, std=size**-0.5))
            bias = self.const(self.draw(CHANNELS))
            x = self.op("Conv", x, weight, bias, strides=[PATCH, PATCH])
            x = self.transpose(self.reshape(x, 1, CHANNELS, PATCHES), 0, 2, 1)
        elif self.embed == "unfold":
            x = self.reshape(x, 1, 3, grid[0], PATCH, grid[1], PATCH)
            x = self.reshape(self.transpose(x, 0, 2, 4, 3, 5, 1), 1, PATCHES, size)
            x = self.dense(x, size, CHANNELS)
        elif self.embed == "space to depth":
            x = self.transpose(self.op("SpaceToDepth", x, blocksize=PATCH), 0, 2, 3, 1)
            x = self.dense(self.reshape(x, 1, PATCHES, size), size, CHANNELS)
        else:
            assert self.embed == "tokens", self.embed
            x = self.dense(x, size, CHANNELS)
        count = PATCHES
        if self.class_token in ("first", "last", "two"):
            number = 2 if self.class_token == "two" else 1
            token = self.const(self.draw(1, number, CHANNELS))
            parts = [x, token] if self.class_token == "last" else [token, x]
            x, count = self.op("Concat", *parts, axis=1), count + number
        elif self.class_token == "padded":
            x = self.op("Pad", x, self.ints(0, 1, 0, 0, 0, 0))
            count += 1
        elif self.class_token == "without position":
            return x, count
        return self.op("Add", self.const(self.draw(1, count, CHANNELS)), x), count

    def mix(self, x: str, count: int) -> str:
        """Attention on normalised tokens."""
        depth = CHANNELS // HEADS

        def heads(part: str, *order: int) -> str:
            return self.transpose(self.reshape(part, 1, count, HEADS, depth), *order)

        if self.attention == "fused joint":
            weight, bias = self.draw(CHANNELS, 3 * CHANNELS), self.draw(3 * CHANNELS, std=0.2)
            mixed = self.fused(
                "Attention", x, self.const(weight), self.const(bias), num_heads=HEADS
            )
            return self.dense(mixed, CHANNELS, CHANNELS)
        if self.attention == "fused unequal":  # values are wider than queries and keys
            sizes = [6, 6, CHANNELS]
            weight = self.const(self.draw(CHANNELS, sum(sizes)))
            options = {"num_heads": HEADS, "qkv_hidden_sizes": sizes, "scale": 0.4}
            mixed = self.fused(
                "Attention", x, weight, self.const(self.draw(sum(sizes), std=0.2)), **options
            )
            return self.dense(mixed, CHANNELS, CHANNELS)
        if self.attention in ("joint", "columns interleaved", "gather", "split"):
            joint = self.dense(x, CHANNELS, 3 * CHANNELS, std=0.6)
            if self.attention == "split":
                parts = self.op("Split", joint, outputs=3, axis=2, num_outputs=3)
                query, key, value = (heads(part, 0, 2, 1, 3) for part in parts)
            elif self.attention == "columns interleaved":  # columns ordered (head, dim, q/k/v)
                shaped = self.reshape(joint, 1, count, HEADS, depth, 3)
                query, key, value = (
                    self.transpose(
                        self.op("Squeeze", self.slice(shaped, 4, i, i + 1), self.ints(4)),
                        0, 2, 1, 3,
                    )
                    for i in range(3)
                )  # fmt: skip
            else:
                shaped = self.reshape(joint, 1, count, 3, HEADS, depth)
                shaped = self.transpose(shaped, 2, 0, 3, 1, 4)
                query, key, value = (
                    self.op("Gather", shaped, self.const(i, np.int64), axis=0) for i in range(3)
                )
            key = self.transpose(key, 0, 1, 3, 2)
        else:
            query, key, value = (self.dense(x, CHANNELS, CHANNELS, std=0.6) for _ in range(3))
            if self.attention == "node 3d":
                mixed = self.op(
                    "Attention", query, key, value, q_num_heads=HEADS, kv_num_heads=HEADS
                )
                return self.dense(mixed, CHANNELS, CHANNELS)
            if self.attention == "fused heads":
                bias = self.const(self.draw(3 * CHANNELS, std=0.2))
                mixed = self.fused("MultiHeadAttention", query, key, value, bias, num_heads=HEADS)
                return self.dense(mixed, CHANNELS, CHANNELS)
            if self.attention == "shared keys":
                key, value = self.slice(key, 2, 0, depth), self.slice(value, 2, 4, 4 + depth)
                query = heads(query, 0, 2, 1, 3)
                key, value = (self.op("Unsqueeze", v, self.ints(1)) for v in (key, value))
                mixed = self.op("Attention", query, key, value, scale=0.3)
                mixed = self.reshape(self.transpose(mixed, 0, 2, 1, 3), 1, count, CHANNELS)
                return self.dense(mixed, CHANNELS, CHANNELS)
            query, value = heads(query, 0, 2, 1, 3), heads(value, 0, 2, 1, 3)
            key = heads(key, 0, 2, 3, 1)
        if self.scale in ("query", "both"):
            factor = SCALE if self.scale == "query" else SCALE**0.5
            query = self.op("Mul", self.const(factor), query)
        if self.scale in ("key", "both"):
            key = self.op(
                "Div", key, self.const(1 / (SCALE if self.scale == "key" else SCALE**0.5))
            )
        if self.attention == "scores transposed":
            scores = self.op(
                "MatMul", self.transpose(key, 0, 1, 3, 2), self.transpose(query, 0, 1, 3, 2)
            )
            scores = self.transpose(scores, 0, 1, 3, 2)
        elif self.scale == "fused":
            turned = self.transpose(key, 0, 1, 3, 2)
            scores = self.fused("FusedMatMul", query, turned, alpha=SCALE, transB=1)
        else:
            scores = self.op("MatMul", query, key)
        if self.scale == "scores":
            scores = self.op("Div", scores, self.const(1 / SCALE))
        elif self.scale == "per head":
            scores = self.op("Mul", scores, self.const(np.array([0.3, 0.5, 0.9]).reshape(3, 1, 1)))
        elif self.scale == "mask":
            scores = self.op("Add", scores, self.const(np.tril(np.ones((count, count)))))
        weights = self.op("Softmax", scores, axis=-1)
        if self.attention == "guarded":
            weights = self.op("Where", self.op("IsNaN", weights), self.const(0.0), weights)
        mixed = self.op("MatMul", weights, value)
        mixed = self.reshape(self.transpose(mixed, 0, 2, 1, 3), 1, count, CHANNELS)
        return self.dense(mixed, CHANNELS, CHANNELS)

    def gates(self, x: str, renormalise: str) -> tuple[str, str, str]:
        """Router: softmax scores, chosen weights and indices, [1, T, experts or k]."""
        logits = self.op("MatMul", x, self.const(self.draw(CHANNELS, EXPERTS, std=0.7)))
        if renormalise == "softmax after":
            chosen, index = self.op("TopK", logits, self.ints(TOP_K), outputs=2)
            return logits, self.op("Softmax", chosen, axis=2), index
        scores = self.op("Softmax", logits, axis=-1)
        chosen, index = self.op("TopK", scores, self.ints(TOP_K), outputs=2, axis=-1)
        if renormalise == "sum":
            total = self.op("ReduceSum", chosen, self.ints(-1))
            chosen = self.op("Div", chosen, self.op("Add", total, self.const(1e-9)))
        return scores, chosen, index

    def loop(self, x: str, weigh: Callable[[int], str]) -> list[str]:
        """All experts, each times its weight [1, T, 1]."""
        return [
            self.op("Mul", *((weigh(e), self.perceptron(x))[:: 1 if e % 2 else -1]))
            for e in range(self.experts)
        ]

    def total(self, terms: Sequence[str]) -> str:
        result = terms[0]
        for term in terms[1:]:
            result = self.op("Add", result, term)
        return result

    def table(self, index: str, updates: str, count: int) -> str:
        zeros = self.const(np.zeros((1, count, EXPERTS)))
        return self.op("ScatterElements", zeros, index, updates, axis=2)

    def mixture(self, x: str, count: int) -> str:
        """Experts on normalised tokens."""
        renormalise = {"renormalised": "sum", "softmax after": "softmax after"}
        if self.mlp == "node":
            return self.moe_node(x, count)
        scores, chosen, index = self.gates(x, renormalise.get(self.mlp, ""))
        if self.mlp == "one-hot":
            values = self.const([0.0, 1.0])
            hot = self.op("OneHot", index, self.const(EXPERTS, np.int64), values, axis=-1)
            weighted = self.op("Mul", hot, self.op("Unsqueeze", chosen, self.ints(-1)))
            table = self.op("ReduceSum", weighted, self.ints(2), keepdims=0)
            return self.total(self.loop(x, lambda e: self.slice(table, 2, e, e + 1)))
        if self.mlp in ("equality", "equality where"):

            def weigh(e: int) -> str:
                hit = self.op("Equal", index, self.ints(e))
                if self.mlp == "equality":
                    kept = self.op("Mul", chosen, self.op("Cast", hit, to=TensorProto.FLOAT))
                else:
                    kept = self.op("Where", hit, chosen, self.const(0.0))
                return self.op("ReduceSum", kept, self.ints(-1))

            return self.total(self.loop(x, weigh))
        if self.mlp == "mask":
            ones = self.const(np.ones((1, count, TOP_K)))
            table = self.op("Mul", self.table(index, ones, count), scores)
        else:
            table = self.table(index, chosen, count)
        if self.mlp in ("stacked", "stacked einsum"):
            return self.stacked(x, table, count)
        if self.mlp == "doubled":
            table = self.op("Mul", table, self.const(2.0))
        if self.mlp == "gather":
            terms = self.loop(x, lambda e: self.op("Gather", table, self.ints(e), axis=2))
        else:
            terms = self.loop(x, lambda e: self.slice(table, 2, e, e + 1))
        if self.mlp == "sum node":
            return self.op("Sum", *terms)
        return self.total(terms)

    def stacked(self, x: str, table: str, count: int) -> str:
        """All experts' matrices in one tensor."""
        up = self.const(self.draw(EXPERTS, CHANNELS, HIDDEN))
        down = self.const(self.draw(EXPERTS, HIDDEN, CHANNELS))
        first, second = self.draw(EXPERTS, HIDDEN), self.draw(EXPERTS, CHANNELS)
        if self.mlp == "stacked":
            hidden = self.op("Add", self.op("MatMul", x, up), self.const(first[:, None]))
            result = self.op("MatMul", self.activation(hidden), down)
            result = self.op("Add", result, self.const(second[:, None]))
            weighted = self.op("Mul", result, self.transpose(table, 2, 1, 0))
            return self.op("ReduceSum", weighted, self.ints(0))
        rows = self.reshape(x, count, CHANNELS)
        hidden = self.op("Einsum", rows, up, equation="tc,ech->teh")
        hidden = self.activation(self.op("Add", hidden, self.const(first)))
        result = self.op("Einsum", hidden, down, equation="teh,ehc->tec")
        result = self.op("Add", result, self.const(second))
        gates = self.reshape(table, count, EXPERTS)
        total = self.op("Einsum", gates, result, equation="te,tec->tc")
        return self.op("Unsqueeze", total, self.ints(0))

    def moe_node(self, x: str, count: int) -> str:
        rows = self.reshape(x, count, CHANNELS)
        logits = self.op("MatMul", rows, self.const(self.draw(CHANNELS, EXPERTS, std=0.7)))
        held = self.experts
        weights = (
            self.draw(held, HIDDEN, CHANNELS),
            self.draw(held, HIDDEN),
            self.draw(held, CHANNELS, HIDDEN),
            self.draw(held, CHANNELS),
        )
        mixed = self.op(
            "MoE",
            rows,
            logits,
            *(self.const(weight) for weight in weights),
            domain="com.microsoft",
            k=TOP_K,
            activation_type=self.gelu if self.gelu in ("relu", "silu", "identity") else "gelu",
            normalize_routing_weights=1,
        )
        return self.reshape(mixed, 1, count, CHANNELS)

    def finish(self, x: str, count: int) -> str:
        """Row slice, norm, linear and output layout."""
        skipped = count - PATCHES if self.class_token != "last" else 0
        if self.head == "drop":
            x = self.layer_norm(self.slice(x, 1, skipped, skipped + PATCHES))
        elif self.head == "norm first":
            x = self.slice(self.layer_norm(x), 1, skipped, skipped + PATCHES)
        elif self.head == "class":
            x = self.op("Gather", self.layer_norm(x), self.ints(0), axis=1)
            return self.reshape(self.dense(x, CHANNELS, 5), 1, 5)
        elif self.head == "pooled":
            pooled = self.op("ReduceMean", self.layer_norm(x), self.ints(1))
            return self.dense(pooled, CHANNELS, 5)
        elif self.head == "pooled first":
            pooled = self.op("ReduceMean", x, self.ints(1))
            return self.dense(self.layer_norm(pooled), CHANNELS, 5)
        elif self.head == "no norm":
            return self.dense(x, CHANNELS, 5)
        elif self.head == "convolution":
            x = self.slice(self.layer_norm(x), 1, skipped, skipped + PATCHES)
            grid = 1, CHANNELS, HEIGHT // PATCH, WIDTH // PATCH
            x = self.reshape(self.transpose(x, 0, 2, 1), *grid)
            weight = self.const(self.draw(2 * PATCH * PATCH, CHANNELS, 1, 1))
            x = self.op("Conv", x, weight, self.const(self.draw(2 * PATCH * PATCH)))
            return self.op("DepthToSpace", x, blocksize=PATCH, mode="CRD")
        elif self.head == "softmax":
            x = self.slice(self.layer_norm(x), 1, skipped, skipped + PATCHES)
            return self.op("Softmax", self.dense(x, CHANNELS, 5), axis=-1)
        x = self.dense(x, CHANNELS, PATCH * PATCH * 2)
        x = self.reshape(x, HEIGHT // PATCH, WIDTH // PATCH, PATCH, PATCH, 2)
        return self.reshape(self.transpose(x, 4, 0, 2, 1, 3), 1, 2, HEIGHT, WIDTH)

    def proto(self) -> onnx.ModelProto:
        shape: list[int | str] = [self.batch, 3, HEIGHT, WIDTH]
        if self.embed == "tokens":
            shape = [self.batch, PATCHES, 3 * PATCH * PATCH]
        x, count = self.tokens("x")
        if self.stream in ("normalised", "normalised and post-norm"):
            x = self.layer_norm(x, epsilon=1e-5)
        if self.residual.startswith("parallel"):
            x = self.branches(x, count)
        elif "post-norm" in self.stream:
            x = self.layer_norm(self.add(x, self.mix(x, count)))
            x = self.layer_norm(self.add(x, self.feed_forward(x, count)))
        else:
            if self.residual in ("fused", "fused with bias"):
                normal, x = self.skip_norm(x, self.mix(self.layer_norm(x), count))
            else:
                if self.residual != "no attention":
                    x = self.add(x, self.mix(self.layer_norm(x), count))
                normal = self.layer_norm(x)
            x = self.add(x, self.feed_forward(normal, count))
        output = self.finish(x, count)
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.constants,
        )
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def save(self, folder: Path, name: str = "model.onnx") -> Path:
        path = folder / name
        onnx.save(self.proto(), path)
        return path
