"""Vision transformers that look like supported ones and compute something else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from tests.compiler.onnx_vit import CHANNELS, EXPERTS, TOP_K, Vit

GATES = [
    "topk of logits by their sum",
    "scatter: 1 - mask",
    "scatter: 2 * mask",
    "scatter: mask + 0.1",
    "one-hot: 1 - mask",
    "one-hot: 2 * mask",
    "one-hot: mask + 0.1",
    "softmax + 0.5",
    "three times the chosen by their sum",
    "chosen by twice their sum",
    "twice what is chosen by their sum",
    "chosen by their sum + 1e-5",
    "chosen by the next token's sum",
    "one-hot of 3",
    "sum of doubled products",
    "index + 1",
    "indices cast to bool",
]
OPERATORS = ["cast like int", "cast like bool", "mask of dropout", "isnan of sqrt"]
ACTIVATIONS = [
    "10 - relu(10 - gelu)",
    "gelu + relu(x - 8)",
    "gelu + relu(-x - 7)",
    "gelu(1.001 x)",
    "1.001 gelu",
    "gelu + 0.001",
    "erf of 0.7",
    "tanh without its cube",
    "squares",
]
RIGHT = {
    "mask of dropout",  # all true in inference: the layer is a constant
    "scatter: 2 * mask",
    "one-hot: 2 * mask",
    "three times the chosen by their sum",
    "chosen by twice their sum",
    "twice what is chosen by their sum",
    "chosen by their sum + 1e-5",
    "chosen by the next token's sum",
    "one-hot of 3",
    "sum of doubled products",
    "gelu(1.001 x)",
}
"""What may be taken, because a factor can go into the experts, and a slope into the layer before;
if it is taken, it must be right."""


@dataclass
class OddVit(Vit):
    """A model with one deviation, or none with ``odd`` empty."""

    odd: str = ""

    def draw(self, *shape: int, std: float = 0.5) -> np.ndarray:
        """With ``tie``, all experts but the first score the same: the choice is always a tie."""
        drawn = super().draw(*shape, std=std)
        if self.odd == "tie" and shape == (CHANNELS, EXPERTS):
            drawn[:, 2:] = drawn[:, 1:2]
        return drawn

    def activation(self, x: str) -> str:
        def minus(left: str, right: str) -> str:
            return self.op("Sub", left, right)

        def relu(value: str) -> str:
            return self.op("Relu", value)

        number, gelu = self.const, self.op("Gelu", x)
        match self.odd:
            case "10 - relu(10 - gelu)":
                return minus(number(10.0), relu(minus(number(10.0), gelu)))
            case "gelu + relu(x - 8)":
                return self.op("Add", gelu, relu(minus(x, number(8.0))))
            case "gelu + relu(-x - 7)":
                return self.op("Add", gelu, relu(minus(self.op("Neg", x), number(7.0))))
            case "gelu(1.001 x)":
                return self.op("Gelu", self.op("Mul", x, number(1.001)))
            case "1.001 gelu":
                return self.op("Mul", gelu, number(1.001))
            case "gelu + 0.001":
                return self.op("Add", gelu, number(0.001))
            case "erf of 0.7":
                gate = self.op("Add", self.op("Erf", self.op("Mul", x, number(0.7))), number(1.0))
                return self.op("Mul", self.op("Mul", x, number(0.5)), gate)
            case "tanh without its cube":
                inner = self.op("Mul", x, number((2 / np.pi) ** 0.5))
                gate = self.op("Add", self.op("Tanh", inner), number(1.0))
                return self.op("Mul", self.op("Mul", x, number(0.5)), gate)
            case "squares":
                for _ in range(14):
                    x = self.op("Mul", x, x)
                return x
            case "cast like int":
                return self.op("CastLike", super().activation(x), self.ints(1))
            case "cast like bool":
                hot = self.op("CastLike", x, self.const([True], np.bool_))
                return super().activation(self.op("Cast", hot, to=TensorProto.FLOAT))
            case "mask of dropout":
                _, mask = self.op("Dropout", x, outputs=2)
                return super().activation(self.op("Cast", mask, to=TensorProto.FLOAT))
            case "isnan of sqrt":
                root = self.op("IsNaN", self.op("Sqrt", x))
                return self.op("Where", root, self.const(0.0), super().activation(x))
        return super().activation(x)

    def mixture(self, x: str, count: int) -> str:
        if self.odd not in GATES:
            return super().mixture(x, count)
        scores, chosen, index = self.gates(x, "")
        number = self.const
        if self.odd == "topk of logits by their sum":
            logits = self.nodes[-2].input[0]
            self.nodes[-1].input[0] = logits
            total = self.op("ReduceSum", chosen, self.ints(-1))
            table = self.table(index, self.op("Div", chosen, total), count)
        elif "by" in self.odd:
            total = self.op("ReduceSum", chosen, self.ints(-1))
            if self.odd == "chosen by twice their sum":
                total = self.op("Mul", number(2.0), total)
            elif "next" in self.odd:
                rest = self.slice(total, 1, 1, count)
                total = self.op("Concat", rest, self.slice(total, 1, 0, 1), axis=1)
            elif self.odd.endswith("1e-5"):
                total = self.op("Add", total, number(1e-5))
            elif self.odd.startswith("three"):
                chosen = self.op("Mul", number(3.0), chosen)
            share = self.op("Div", chosen, total)
            if self.odd.startswith("twice"):
                share = self.op("Mul", number(2.0), share)
            table = self.table(index, share, count)
        elif self.odd == "index + 1":
            shifted = self.op("Sub", index, self.ints(1))
            wrapped = self.op("Add", index, self.op("Sub", index, shifted))
            table = self.table(self.op("Sub", wrapped, self.ints(2)), chosen, count)
        elif self.odd in ("sum of doubled products", "one-hot of 3"):
            values = number([0.0, 3.0 if "3" in self.odd else 1.0])
            hot = self.op("OneHot", index, number(EXPERTS, np.int64), values, axis=-1)
            product = self.op("Mul", hot, self.op("Unsqueeze", chosen, self.ints(-1)))
            if "doubled" in self.odd:
                product = self.op("Mul", product, number(2.0))
            table = self.op("ReduceSum", product, self.ints(2), keepdims=0)
        elif self.odd == "indices cast to bool":
            hit = self.op("Cast", index, to=TensorProto.BOOL)
            first = self.op("Where", hit, chosen, number(0.0))
            table = self.table(index, first, count)
        else:
            table = self.masked(scores, index, count)
        return self.total(self.loop(x, lambda e: self.slice(table, 2, e, e + 1)))

    def masked(self, scores: str, index: str, count: int) -> str:
        """Scores times a mask of the chosen, one of both changed."""
        if self.odd.startswith("one-hot"):
            values = self.const([0.0, 1.0])
            hot = self.op("OneHot", index, self.const(EXPERTS, np.int64), values, axis=-1)
            mask = self.op("ReduceSum", hot, self.ints(2), keepdims=0)
        else:
            mask = self.table(index, self.const(np.ones((1, count, TOP_K))), count)
        if self.odd.endswith("1 - mask"):
            mask = self.op("Sub", self.const(1.0), mask)
        elif self.odd.endswith("2 * mask"):
            mask = self.op("Mul", self.const(2.0), mask)
        elif self.odd.endswith("mask + 0.1"):
            mask = self.op("Add", mask, self.const(0.1))
        else:
            scores = self.op("Add", scores, self.const(0.5))
        return self.op("Mul", scores, mask)
