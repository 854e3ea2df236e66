"""Hand-written transformers of `onnx_vit` with heads that the accelerator does not take whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.compiler.onnx_vit import CHANNELS, HEIGHT, PATCH, PATCHES, WIDTH, Vit

GRID = HEIGHT // PATCH, WIDTH // PATCH


@dataclass
class HeadedVit(Vit):
    """`head` names what follows the layers; the class token comes first."""

    def grid(self, tokens: str) -> str:
        """[1, 1 + patches, C] to [1, C, rows, columns], without the class token."""
        patches = self.slice(tokens, 1, 1, 1 + PATCHES)
        return self.reshape(self.transpose(patches, 0, 2, 1), 1, CHANNELS, *GRID)

    def convolution(self, x: str, inputs: int, outputs: int, kernel: int) -> str:
        weight = self.draw(outputs, inputs, kernel, kernel, std=(inputs * kernel**2) ** -0.5)
        pads = [kernel // 2] * 4
        return self.op("Conv", x, self.const(weight), self.const(self.draw(outputs)), pads=pads)

    def double(self, x: str) -> str:
        scales = self.const([1.0, 1.0, 2.0, 2.0])
        return self.op("Resize", x, "", scales, mode="linear")

    def finish(self, x: str, count: int) -> str:
        kind = self.head
        if kind == "residual":
            return self.convolution(self.grid(x), CHANNELS, 3, 3)
        if kind == "several layers":
            early = self.op("LayerNormalization", self.first_layer, self.const(np.ones(CHANNELS)))
            late = self.layer_norm(x)
            parts = [self.convolution(self.grid(part), CHANNELS, 4, 3) for part in (early, late)]
            return self.op("Concat", *parts, axis=1)
        if kind == "pooled stream":
            pooled = self.op("ReduceMean", x, self.ints(1))
            return self.dense(self.layer_norm(pooled), CHANNELS, 5)
        if kind == "tokens and residual":
            return self.op("Add", self.op("Sigmoid", self.layer_norm(x)), x)
        if kind == "two norms":
            return self.op("Add", *(self.op("Sigmoid", self.layer_norm(x)) for _ in range(2)))
        x = self.layer_norm(x)
        if kind == "tokens and image":
            return self.op("Add", self.op("Sigmoid", self.op("ReduceMean", x)), "x")
        if kind == "convolutions":
            x = self.op("Relu", self.convolution(self.grid(x), CHANNELS, 5, 3))
            return self.convolution(self.double(x), 5, 3, 1)
        if kind == "projection first":
            x = self.convolution(self.grid(x), CHANNELS, 5, 1)
            statistics = (1 + self.draw(5), self.draw(5), self.draw(5), 1 + self.draw(5) ** 2)
            x = self.op("BatchNormalization", x, *(self.const(part) for part in statistics))
            return self.double(self.op("Relu", x))
        if kind == "probabilities":
            return self.op("Softmax", self.dense(x, CHANNELS, 5), axis=-1)
        if kind == "pooled":
            return self.dense(self.op("ReduceMean", x, self.ints(1)), CHANNELS, 5)
        if kind == "perceptron":
            return self.dense(self.activation(self.dense(x, CHANNELS, 9)), 9, 4)
        if kind == "without batch":
            rows = self.op("Squeeze", self.slice(x, 1, 1, 1 + PATCHES), self.ints(0))
            return self.op("HardSwish", rows)
        if kind == "class and patches":
            token = self.op("Sigmoid", self.slice(x, 1, 0, 1))
            return self.convolution(self.grid(self.op("Mul", x, token)), CHANNELS, 3, 3)
        if kind == "computed shape":
            # The older exporter's way: sizes of a tensor in front of the cut.
            size = self.op("Slice", self.op("Shape", x), self.ints(0), self.ints(1))
            shape = self.op("Concat", size, self.ints(-1), axis=0)
            return self.op("Reshape", self.convolution(self.grid(x), CHANNELS, 3, 3), shape)
        if kind == "branch":
            return self.branch(self.grid(x))
        if kind == "classes":
            x = self.convolution(self.grid(x), CHANNELS, 3, 3)
            return self.op("ArgMax", x, axis=1)
        if kind == "random":
            noise = self.op("RandomNormal", shape=[1, CHANNELS, *GRID])
            return self.op("Add", self.grid(x), noise)
        raise AssertionError(kind)

    def branch(self, x: str) -> str:
        """Subgraphs that read a value from around them."""
        branches = {
            name: helper.make_graph(
                [helper.make_node(kind, [x], [f"{name} result"])],
                name,
                [],
                [helper.make_tensor_value_info(f"{name} result", TensorProto.FLOAT, None)],
            )
            for name, kind in (("then_branch", "Relu"), ("else_branch", "Sigmoid"))
        }
        total = self.op("ReduceSum", x, keepdims=0)
        return self.op("If", self.op("Greater", total, self.const(0.0)), **branches)

    def add(self, stream: str, branch: str) -> str:
        total = super().add(stream, branch)
        if not hasattr(self, "first_layer"):
            self.first_layer = total
        return total


def convolutional_stem(vit: HeadedVit) -> onnx.ModelProto:
    """The same model on an image that a padded convolution has gone over."""
    tokens = vit.tokens

    def stemmed(x: str) -> tuple[str, int]:
        return tokens(vit.op("Relu", vit.convolution(x, 3, 3, 3)))

    vit.tokens = stemmed  # type: ignore[method-assign]
    return vit.proto()
