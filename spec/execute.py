"""Runs an integer graph in torch: the oracle for the gateware and the CPU/GPU device.

Exact on every device: the same codes in give the same codes out, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moesaic.spec import semantics
from moesaic.spec.intgraph import (
    IntAttention,
    IntDense,
    IntGraph,
    IntLinear,
    IntMlp,
    IntMoe,
    IntNorm,
)

Observe = Callable[[str, Tensor], None]


class Executor:
    """An integer graph made ready for one torch device.

    Parameters
    ----------
    graph
        The task to run.
    device
        A torch device name: ``cpu`` or ``cuda``.
    """

    def __init__(self, graph: IntGraph, device: str = "cpu") -> None:
        self.graph = graph
        self.device = torch.device(device)
        self._tensors: dict[int, Tensor] = {}

    def run(self, patches: NDArray[np.int8], observe: Observe | None = None) -> NDArray[np.int16]:
        """Run int8 codes [frames, patches, inputs] to int16 codes [frames, rows, outputs].

        ``observe(name, value)`` sees intermediate integers of each frame, for debugging.
        """
        watch = observe or (lambda name, value: None)
        codes = torch.as_tensor(patches.astype(np.int64), device=self.device)
        frames = [self._frame(frame, watch) for frame in codes]
        return torch.stack(frames).cpu().numpy().astype(np.int16)

    def _constant(self, array: NDArray[np.generic]) -> Tensor:
        """A constant of the graph as int64 tensor on the device; converted once."""
        if id(array) not in self._tensors:
            self._tensors[id(array)] = torch.as_tensor(array.astype(np.int64), device=self.device)
        return self._tensors[id(array)]

    def _weight(self, array: NDArray[np.generic]) -> Tensor:
        """Weights in the type that :func:`semantics.matmul` multiplies in; converted once."""
        if id(array) not in self._tensors:
            self._tensors[id(array)] = torch.as_tensor(array.astype(np.float64), device=self.device)
        return self._tensors[id(array)]

    def _frame(self, patches: Tensor, watch: Observe) -> Tensor:
        graph = self.graph
        residual = self._constant(graph.embed.initial).clone()
        first = graph.embed.first_row
        rows = slice(first, first + patches.shape[0])
        addend = self._linear(patches, graph.embed.linear, 24)
        residual[rows] = semantics.residual_add(residual[rows], addend)
        watch("embed", residual)
        for index, layer in enumerate(graph.layers):
            if isinstance(layer, IntAttention):
                residual = self._attention(residual, layer, lambda n, v: watch(f"{index}.{n}", v))  # noqa: B023
            elif isinstance(layer, IntDense):
                narrow, _ = self._norm(residual, layer.norm)
                watch(f"{index}.norm", narrow)
                residual = semantics.residual_add(residual, self._mlp(narrow, layer.mlp))
            else:
                residual = self._moe(residual, layer, lambda n, v: watch(f"{index}.{n}", v))  # noqa: B023
            watch(f"{index}.residual", residual)
        head = graph.head
        narrow, _ = self._norm(residual[head.first_row : head.first_row + head.rows], head.norm)
        watch("head.norm", narrow)
        return self._linear(narrow, head.linear, 16)

    def _accumulate(self, x: Tensor, linear: IntLinear) -> Tensor:
        return semantics.matmul(x, self._weight(linear.weight)) + self._constant(linear.bias)

    def _linear(self, x: Tensor, linear: IntLinear, bits: int) -> Tensor:
        return semantics.requantise(
            self._accumulate(x, linear),
            self._constant(linear.multiplier),
            self._constant(linear.shift),
            bits,
        )

    def _norm(self, x: Tensor, norm: IntNorm) -> tuple[Tensor, Tensor]:
        return semantics.layer_norm(
            x, norm.channels, norm.epsilon, norm.scale.multiplier, norm.scale.shift
        )

    def _mlp(self, x: Tensor, mlp: IntMlp) -> Tensor:
        z = self._linear(x, mlp.up, 18)
        hidden = semantics.gelu(z, mlp.gelu.multiplier, mlp.gelu.shift)
        return self._linear(hidden, mlp.down, 24)

    def _attention(self, residual: Tensor, layer: IntAttention, watch: Observe) -> Tensor:
        narrow, _ = self._norm(residual, layer.norm)
        watch("norm", narrow)
        rows = residual.shape[0]
        query, key, value = (
            self._linear(narrow, linear, 8).reshape(rows, layer.heads, -1).transpose(0, 1)
            for linear in (layer.query, layer.key, layer.value)
        )
        watch("query", query)
        watch("key", key)
        watch("value", value)
        outputs = []
        for head in range(layer.heads):
            scores = semantics.matmul(query[head], key[head])
            probability, sums = semantics.softmax(
                scores, layer.softmax.multiplier, layer.softmax.shift
            )
            product = semantics.matmul(probability, value[head].T)
            multiplier, shift = semantics.attention_scale(
                sums, layer.scale.multiplier, layer.scale.shift
            )
            outputs.append(semantics.requantise(product, multiplier[:, None], shift[:, None], 8))
            watch(f"head{head}.probability", probability)
        attended = torch.cat(outputs, dim=1)
        watch("attended", attended)
        return semantics.residual_add(residual, self._linear(attended, layer.output, 24))

    def _moe(self, residual: Tensor, layer: IntMoe, watch: Observe) -> Tensor:
        narrow, wide = self._norm(residual, layer.norm)
        watch("norm", narrow)
        logits = self._linear(wide, layer.gate, 24)
        watch("logits", logits)
        chosen, weights = semantics.route(
            logits, layer.top_k, layer.renormalise, layer.softmax.multiplier, layer.softmax.shift
        )
        watch("chosen", chosen)
        watch("weights", weights)
        residual = residual.clone()
        for number, expert in enumerate(layer.experts):
            token, slot = torch.nonzero(chosen == number, as_tuple=True)
            if len(token) == 0:
                continue
            addend = self._mlp(narrow[token], expert)
            residual[token] = semantics.residual_add(
                residual[token], addend, weights[token, slot][:, None]
            )
        return residual
