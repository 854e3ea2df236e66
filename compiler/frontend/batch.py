"""Files with a fixed batch of several frames become files for one.

The sizes of all values are worked out twice, for the file's batch and for one frame: they must
differ by that factor along one axis, and shapes and constants that hold the batch are replaced.
That frames do not depend on each other is not shown here, but in
``moesaic.compiler.validate.rewritten``.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from moesaic.compiler.frontend.nodes import describe
from moesaic.compiler.frontend.parse import first_line
from moesaic.compiler.frontend.sizes import Array, Shape, Sizes, Stuck
from moesaic.spec.errors import UserError

TARGETS = {"Expand": 1, "Reshape": 1, "Resize": 3}
"""Operators with an input that is the shape of the result."""


def unbatch(model: onnx.ModelProto, path: str | Path) -> int:
    """Take the input's batch to 1, in place, where it is a number above 1.

    Parameters
    ----------
    model
        Its nodes in order, with one input.

    Returns
    -------
    The batch that the file has.

    Raises
    ------
    UserError
        A node cannot be taken to another batch.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        return 1
    dims = inputs[0].type.tensor_type.shape.dim
    if not dims or not all(d.HasField("dim_value") and d.dim_value > 0 for d in dims):
        return 1
    frames = int(dims[0].dim_value)
    if frames == 1:
        return 1
    shape = tuple(int(d.dim_value) for d in dims)
    whole = Sizes(model, inputs[0].name, shape)
    single = Sizes(model, inputs[0].name, (1, *shape[1:]))
    kind = inputs[0].type.tensor_type.elem_type
    whole.kinds[inputs[0].name] = single.kinds[inputs[0].name] = kind
    for node in model.graph.node:
        try:
            whole.infer(node)
            _Node(node, whole, single, frames, model.graph).take()
        except Exception as error:  # also whatever inference and the evaluator raise
            raise UserError(
                f"{path} has a fixed batch of {frames} frames, which {describe(node)} cannot leave"
                f" ({first_line(error)}): export the model for a batch of 1"
            ) from error
    for output in model.graph.output:
        first = _axis(whole, single, output.name, frames) == 0
        if not first or whole.inside.get(output.name, 1) != 1:
            raise UserError(
                f"output {output.name!r} of {path} must have the batch of {frames} frames as its"
                " first axis: export the model for a batch of 1"
            )
        output.type.tensor_type.ClearField("shape")
    dims[0].dim_value = 1
    del model.graph.value_info[:]
    return frames


def _axis(whole: Sizes, single: Sizes, name: str, frames: int) -> int | None:
    """Return the axis of a value that holds the frames, None if it depends on no data."""
    if name not in whole.shapes:
        return None
    large, small = whole.shapes[name], single.shapes[name]
    axes = [i for i, (n, m) in enumerate(zip(large, small, strict=True)) if n != m]
    if not axes:
        raise Stuck("it mixes frames, or takes one of them")
    if len(axes) != 1 or large[axes[0]] != frames * small[axes[0]]:
        sizes = " instead of ".join("x".join(map(str, part)) for part in (small, large))
        raise Stuck(f"one frame gives {sizes}")
    return axes[0]


class _Node:
    """One node, taken from the file's batch to one frame."""

    def __init__(
        self,
        node: onnx.NodeProto,
        whole: Sizes,
        single: Sizes,
        frames: int,
        graph: onnx.GraphProto,
    ) -> None:
        self.node, self.whole, self.single = node, whole, single
        self.frames, self.graph = frames, graph

    def take(self) -> None:
        """Replace what holds the batch, learn the sizes for one frame, and compare them."""
        data = [name for name in self.node.input if name in self.whole.shapes]
        if data and self.node.op_type in TARGETS:
            self._shape(TARGETS[self.node.op_type])
        elif data:
            behind = {
                len(self.whole.shapes[name]) - axis
                for name in data
                if (axis := _axis(self.whole, self.single, name, self.frames)) is not None
            }
            for index, name in enumerate(self.node.input):
                value = self.single.constant(name) if name else None
                if value is not None and len(behind) == 1:
                    self._constant(index, value, next(iter(behind)))
        self.single.infer(self.node)
        inside = max((self.whole.inside.get(name, 1) for name in data), default=1)
        lengths = {self._length(name) for name in data}
        for name in filter(None, self.node.output):
            length = self._length(name)
            if name in self.whole.inside:  # reshaped
                continue
            if inside > 1 and length not in lengths:
                raise Stuck("frames are in the middle of an axis")
            self.whole.inside[name] = inside

    def _length(self, name: str) -> int:
        """Return the length of the axis that holds the frames, 0 for what depends on no data."""
        axis = _axis(self.whole, self.single, name, self.frames)
        return 0 if axis is None else self.whole.shapes[name][axis]

    def _shape(self, index: int) -> None:
        """The input that is the shape of the result."""
        if len(self.node.input) <= index or not self.node.input[index]:
            return
        name, result = self.node.input[0], self.whole.shapes[self.node.output[0]]
        axis = _axis(self.whole, self.single, name, self.frames)
        assert axis is not None
        if self.node.op_type == "Reshape":
            outer = prod(self.whole.shapes[name][:axis]) * self.whole.inside.get(name, 1)
            place, inside = _place(outer, result, self.frames)
            self.whole.inside[self.node.output[0]] = inside
        else:
            place = axis + len(result) - len(self.whole.shapes[name])
        wanted = list(result)
        wanted[place] //= self.frames
        given = self.single.constant(self.node.input[index])
        if given is None or given.tolist() != wanted:
            self._replace(index, np.array(wanted, np.int64))

    def _constant(self, index: int, value: Array, behind: int) -> None:
        """A constant that has something for each frame: it must be the same for all."""
        axis = value.ndim - behind
        whole = self.whole.constant(self.node.input[index])
        if axis < 0 or value.shape[axis] != self.frames or whole is None:
            return
        if whole.shape != value.shape:
            return  # worked out from sizes: it is that of one frame
        first = value.take([0], axis)
        if (value == first).all():
            self._replace(index, first)

    def _replace(self, index: int, value: Array) -> None:
        name = f"{self.node.input[index]}/{self.node.output[0]}/one frame"
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        self.node.input[index] = name
        self.single.store(name, value)


def _place(outer: int, shape: Shape, frames: int) -> tuple[int, int]:
    """Return the axis of a shape that frames are in with ``outer`` places in front of them, and how
    many of those are in the same axis."""
    for place, length in enumerate(shape):
        if length and outer < prod(shape[: place + 1]):
            before = prod(shape[:place])
            if outer % before == 0 and length % (outer // before * frames) == 0:
                return place, outer // before
    raise Stuck("frames and other axes become one")
