"""Sizes that depend on the data, and what may be done with them.

What a mask lists stands for all places that it could (see `dispatch`), so sizes of it are those of
all places. As shapes of the same values they do no harm; as numbers they would be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx

from moesaic.compiler.frontend.algebra import Value
from moesaic.compiler.frontend.choices import Listing
from moesaic.compiler.frontend.nodes import reads
from moesaic.compiler.frontend.views import Arena, NotRecognised, RowSum, Source, View

SHAPE_INPUTS = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}
"""Where a size is only a shape."""
PASSED_ON = frozenset(
    "Add Cast Concat Div Equal Gather Identity Mul Slice Squeeze Sub Unsqueeze Where".split()
)
"""What may be made of a size on the way there, all inputs but the first being known if it moves."""
ACROSS = frozenset("ArgMax CumSum Einsum Gemm MatMul Softmax TopK".split())
"""With all that begins with Reduce: what looks at several elements at once."""


class Sizes:
    """Which values have a size that depends on the data, and which are such sizes."""

    def __init__(self) -> None:
        self._unknown: set[str] = set()
        self._sizes: set[str] = set()

    def check(self, node: onnx.NodeProto, values: Mapping[str, Value]) -> None:
        """Refuse a node that takes a size as a number.

        Raises
        ------
        NotRecognised
            It does; or it looks across constants that are as many as a mask lists.
        """
        read = reads(node)
        constants = {name for name in read if not isinstance(values.get(name), View)}
        passed = node.op_type in PASSED_ON and constants.issuperset(read)
        for index, name in enumerate(node.input):
            if name not in self._sizes or SHAPE_INPUTS.get(node.op_type) == index:
                continue
            if passed and (index == 0 or node.op_type not in ("Slice", "Gather")):
                continue
            if node.op_type == "Slice" and index == 2 and self._takes_all(node, values):
                continue
            raise NotRecognised(
                "it computes with the number of tokens that a mask lists, which is not known: "
                "export the mixture without a capacity, each token by itself"
            )
        if node.op_type in ACROSS or node.op_type.startswith("Reduce"):
            if not self._unknown.isdisjoint(constants):
                raise NotRecognised("it looks across as many constants as a mask lists tokens")

    def _takes_all(self, node: onnx.NodeProto, values: Mapping[str, Value]) -> bool:
        """Whether a slice leaves values of unknown size as they are."""
        numbers = [*node.input[1:2], *node.input[3:]]
        known = self._sizes.isdisjoint(numbers) and all(node.input)
        if node.input[0] not in self._unknown or not known:
            return False
        given = [values[name] for name in node.input]
        shape = given[0].shape
        starts, ends, axes, steps = (
            [int(number) for number in np.ravel(part)]  # type: ignore[arg-type]
            for part in (*given[1:], *([range(len(shape)), [1]][len(given) - 3 :]))
        )
        whole = all(end >= shape[axis] for end, axis in zip(ends, axes, strict=False))
        return whole and not any(starts) and set(steps) == {1}

    def is_unknown(self, node: onnx.NodeProto) -> bool:
        """Whether a node reads values of a size that depends on the data."""
        return not self._unknown.isdisjoint(reads(node))

    def settle(self, node: onnx.NodeProto, inputs: list[Value | None], arena: Arena) -> bool:
        """Put the number of all places where a shape has the number of those that a mask lists.

        Returns whether there was one: then the result's size depends on the data.
        """
        place = SHAPE_INPUTS.get(node.op_type)
        shape = inputs[place] if place is not None and place < len(inputs) else None
        if not isinstance(shape, View):
            return False
        sizes = shape.offset.copy()
        for index in np.ndindex(*shape.shape):
            (part,) = arena.sources_of(shape[index].reshape(1)) or (None,)
            if part is None:
                continue
            if not isinstance(part, RowSum) or not shape[index].reshape(1).is_plain:
                return False
            rows = part.rows[int(shape.ids[index]) - part.start]
            if not any(_lists(source, rows) for source in arena.sources):
                return False
            sizes[index] = rows.shape[0]
        inputs[place] = sizes.astype(np.int64)  # type: ignore[index]
        return True

    def note(
        self, node: onnx.NodeProto, results: Iterable[tuple[str, object]], unknown: bool
    ) -> None:
        """Learn what a node's outputs are; ``unknown``: of a size that depends on the data."""
        read = set(reads(node))
        for name, value in results:
            if unknown:
                self._unknown.add(name)
            elif node.op_type in ("Shape", "Size"):
                if read & self._unknown:
                    self._sizes.add(name)
            elif node.op_type in ("ScatterElements", "ScatterND"):
                if node.input[0] in self._unknown:
                    self._unknown.add(name)
            elif (
                read & self._sizes
                and node.op_type not in SHAPE_INPUTS
                and node.input[0] not in self._unknown
            ):
                self._sizes.add(name)
            elif read & (self._unknown | self._sizes):
                self._unknown.add(name)
            elif node.op_type == "NonZero" and not isinstance(value, np.ndarray):
                self._unknown.add(name)


def _lists(source: Source, mask: View) -> bool:
    return isinstance(source, Listing) and source.mask.same(mask)
