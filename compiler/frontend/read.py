"""Reading matrices, linear layers and normalised linear layers off traced values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler import ir
from moesaic.compiler.frontend.views import (
    Arena,
    Norm,
    NotRecognised,
    Product,
    RealArray,
    Source,
    Sum,
    View,
)
from moesaic.compiler.ir import IndexArray

NOTHING = ir.Given()
"""Of a linear layer that the file does not quantise."""


def per_column(array: NDArray[np.float64], what: str) -> RealArray:
    """Return the one row that all rows of an [R, C] array equal."""
    if array.strides[0] and (array != array[:1]).any():
        raise NotRecognised(f"its {what} differs between tokens")
    return np.array(array[0])


def rows_and_columns(element: IndexArray, width: int) -> tuple[IndexArray, IndexArray]:
    """Split [R, C] numbers into ``row[r] * width + column[c]``."""
    rows, columns = element[:, 0] // width, element[0] % width
    if (element != rows[:, None] * width + columns).any():
        raise NotRecognised("its elements are not whole rows of one matrix")
    return rows, columns


@dataclass
class Matrix:
    """[R, C] values that are ``scale[c] * source[rows[r], columns[c]] + offset[c]``."""

    rows: IndexArray
    columns: IndexArray
    scale: RealArray
    offset: RealArray

    @property
    def is_plain(self) -> bool:
        """Whether these are the source's own values."""
        return bool((self.scale == 1).all() and not self.offset.any())


def as_matrix(view: View, source: Source, width: int) -> Matrix:
    """Read an [R, C] view of a source whose rows have `width` elements."""
    rows, columns = rows_and_columns(view.ids - source.start, width)
    return Matrix(rows, columns, per_column(view.scale, "scale"), per_column(view.offset, "offset"))


@dataclass
class LinearReading:
    """``outputs = inputs @ weight.T + bias``; inputs [R, K], weight [C, K], bias [C]."""

    inputs: View
    weight: RealArray
    bias: RealArray
    name: str
    node: str
    given: ir.Given = NOTHING


def make_linear(
    weight: RealArray, bias: RealArray, name: str, given: ir.Given = NOTHING
) -> ir.Linear:
    """Return an `ir.Linear` in float32."""
    return ir.Linear(
        np.ascontiguousarray(weight, np.float32),
        np.ascontiguousarray(bias, np.float32),
        name,
        given,
    )


def read_linear(arena: Arena, view: View) -> LinearReading:
    """Read [R, C] values as the outputs of one linear layer."""
    source = arena.source_of(view)
    if not isinstance(source, Product):
        raise NotRecognised(f"it comes from {source.node}, not from a linear layer")
    matrix = as_matrix(view, source, source.weight.shape[0])
    weight = source.weight[matrix.columns].astype(np.float64) * matrix.scale[:, None]
    given = NOTHING if source.codes is None else ir.Given(source.codes[matrix.columns])
    return LinearReading(
        source.rows[matrix.rows], weight, matrix.offset, source.name, source.node, given
    )


class State:
    """The residual stream between two layers: a view [tokens, channels]."""

    def __init__(self, view: View) -> None:
        self.view = view
        name = "the residual stream"
        self.plain = Norm(name, name, view.ids.size, rows=view, epsilon=0.0, plain=True)
        """What layers read that read the stream as it is."""
        self._tokens = {view[t].digest(): t for t in range(view.shape[0])}

    def find(self, rows: View) -> IndexArray | None:
        """Return the token that each row of an [R, channels] view is; None if one is none."""
        if rows.shape[1] != self.view.shape[1]:
            return None
        if rows.same(self.view):
            return np.arange(rows.shape[0])
        found = np.empty(rows.shape[0], np.int64)
        for row in range(rows.shape[0]):
            token = self._tokens.get(rows[row].digest())
            if token is None:
                return None
            found[row] = token
        return found

    def locate(self, rows: View) -> IndexArray:
        """:meth:`find`, where every row must be one."""
        if rows.shape[1] != self.view.shape[1]:
            raise NotRecognised(
                f"it has {rows.shape[1]} channels, the residual stream {self.view.shape[1]}"
            )
        found = self.find(rows)
        if found is None:
            raise NotRecognised("it does not read the residual stream as it is before this layer")
        return found


@dataclass
class NormalisedLinear:
    """A linear layer on ``gamma * normalised + beta``; rows r are those of `tokens[r]`."""

    norm: Norm
    tokens: IndexArray
    gamma: RealArray
    beta: RealArray
    weight: RealArray
    bias: RealArray
    name: str
    given: ir.Given = NOTHING


def read_normalised(arena: Arena, state: State, linear: LinearReading) -> NormalisedLinear:
    """Read the inputs of a linear layer as normalised residual, or as the residual itself.

    Columns that are taken in another order, or only some of them, are put in place by moving
    the weights.
    """
    own = state.find(linear.inputs)
    if own is not None:
        channels = state.view.shape[1]
        return NormalisedLinear(
            state.plain,
            own,
            np.ones(channels),
            np.zeros(channels),
            linear.weight,
            linear.bias,
            linear.name,
            linear.given,
        )
    norm = arena.source_of(linear.inputs)
    if not isinstance(norm, Norm):
        raise NotRecognised(
            f"{linear.node} must read a LayerNorm of the residual stream, not {norm.node}"
        )
    channels = norm.rows.shape[1]
    matrix = as_matrix(linear.inputs, norm, channels)
    tokens = state.locate(norm.rows[matrix.rows])
    if np.array_equal(matrix.columns, np.arange(channels)):
        return NormalisedLinear(
            norm,
            tokens,
            matrix.scale,
            matrix.offset,
            linear.weight,
            linear.bias,
            linear.name,
            linear.given,
        )
    weight = np.zeros((linear.weight.shape[0], channels))
    np.add.at(weight.T, matrix.columns, (linear.weight * matrix.scale).T)
    return NormalisedLinear(
        norm,
        tokens,
        np.ones(channels),
        np.zeros(channels),
        weight,
        linear.bias + linear.weight @ matrix.offset,
        linear.name,
        replace(linear.given, codes=None),
    )


def read_plain(state: State, source: Sum, linear: LinearReading) -> NormalisedLinear:
    """Read the inputs of a linear layer as rows of the residual stream ``source`` itself."""
    channels = state.view.shape[1]
    matrix = as_matrix(linear.inputs, source, channels)
    given = linear.given
    if np.array_equal(matrix.columns, np.arange(channels)) and (matrix.scale == 1).all():
        weight = linear.weight
    else:
        weight, given = np.zeros((linear.weight.shape[0], channels)), replace(given, codes=None)
        np.add.at(weight.T, matrix.columns, (linear.weight * matrix.scale).T)
    return NormalisedLinear(
        Norm(source.node, source.name, source.size, state.view, 0.0, plain=True),
        matrix.rows,
        np.ones(channels),
        np.zeros(channels),
        weight,
        linear.bias + linear.weight @ matrix.offset,
        linear.name,
        given,
    )


def share_norm(readings: list[NormalisedLinear]) -> tuple[ir.Norm, list[ir.Linear]]:
    """Return the norm that all readings share, and their linear layers.

    Where gamma or beta differ between them, they go into the weights.
    """
    first = readings[0]
    for reading in readings[1:]:
        if reading.norm is not first.norm:
            raise NotRecognised(f"{reading.norm.node} and {first.norm.node} must be one LayerNorm")
    gamma, beta = first.gamma, first.beta
    if all(np.array_equal(r.gamma, gamma) and np.array_equal(r.beta, beta) for r in readings[1:]):
        linears = [make_linear(r.weight, r.bias, r.name, r.given) for r in readings]
    else:
        gamma, beta = np.ones_like(gamma), np.zeros_like(beta)
        linears = [
            make_linear(r.weight * r.gamma, r.bias + r.weight @ r.beta, r.name, r.given)
            for r in readings
        ]
    norm = ir.Norm(
        gamma.astype(np.float32),
        beta.astype(np.float32),
        first.norm.epsilon,
        first.norm.name,
        first.norm.plain,
    )
    return norm, linears
