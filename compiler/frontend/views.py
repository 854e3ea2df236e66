"""Values during tracing: every element is ``scale * source element + offset``.

All element sources (the input, every product, every softmax, ...) share one number space, the
`Arena`, so that layout operators, concatenations and constants need no patterns: they only move
numbers about. What is left between two sources is an affine map of elements, which is read off.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.frontend.quantised import QuantisedWeight, Quantiser
from moesaic.compiler.ir import FloatArray, IndexArray

RealArray = NDArray[np.float64]
NONE = -1
"""Element number of a constant."""


MOST_ELEMENTS = 1 << 26
"""Elements of one value: the scores of 16 heads among 2,048 tokens."""


class NotRecognised(Exception):
    """A pattern does not match; the message says what is in the way."""


class TooLarge(NotRecognised):
    """A bound of the work of recognising is reached: a part of what is read may reach it, too."""


def check_elements(count: int, what: str) -> None:
    """Refuse a value before memory for it is asked for.

    Raises
    ------
    NotRecognised
        It has more than `MOST_ELEMENTS` elements.
    """
    if count > MOST_ELEMENTS:
        raise NotRecognised(
            f"{what} has {count:,} elements, at most {MOST_ELEMENTS:,} are supported"
        )


@dataclass(frozen=True, eq=False)
class View:
    """An array whose element i is ``scale[i] * element(ids[i]) + offset[i]``.

    All three arrays have the tensor's shape; ``ids`` NONE (with scale 0) is the constant offset.
    """

    ids: IndexArray
    scale: RealArray
    offset: RealArray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.ids.shape

    @property
    def is_constant(self) -> bool:
        return bool((self.ids == NONE).all())

    @property
    def is_plain(self) -> bool:
        """Whether these are elements as they are, neither scaled nor shifted."""
        return bool((self.scale == 1).all() and not self.offset.any())

    def each(self, move: Callable[[NDArray[Any]], NDArray[Any]]) -> View:
        """Apply a function that only moves elements to all three arrays."""
        return View(move(self.ids), move(self.scale), move(self.offset))

    def __getitem__(self, key: Any) -> View:
        return self.each(lambda part: part[key])

    def reshape(self, *shape: int) -> View:
        return self.each(lambda part: part.reshape(shape))

    def transpose(self, *order: int) -> View:
        return self.each(lambda part: part.transpose(order or None))

    def swap_last(self) -> View:
        """Exchange the last two axes."""
        return self.each(lambda part: np.swapaxes(part, -1, -2))

    def move_last(self, axes: tuple[int, ...]) -> View:
        """Bring `axes` (in order) to the end."""
        ends = tuple(range(len(self.shape) - len(axes), len(self.shape)))
        return self.each(lambda part: np.moveaxis(part, axes, ends))

    def move_back(self, axis: int) -> View:
        """Bring the last axis to place `axis`."""
        return self.each(lambda part: np.moveaxis(part, -1, axis))

    def broadcast(self, shape: tuple[int, ...]) -> View:
        return self.each(lambda part: np.broadcast_to(part, shape))

    @property
    def plain(self) -> View:
        """The same elements, neither scaled nor shifted."""
        return plain_view(self.ids)

    @property
    def unshifted(self) -> View:
        """The same elements and scale without the offset."""
        return View(self.ids, self.scale, np.broadcast_to(0.0, self.shape))

    def affine(self, scale: RealArray | float, offset: RealArray | float) -> View:
        """Return ``scale * self + offset``, broadcast against both."""
        shape = np.broadcast_shapes(self.shape, np.shape(scale), np.shape(offset))
        wide = self.broadcast(shape)
        return View(
            wide.ids,
            np.broadcast_to(self.scale * scale, shape),
            np.broadcast_to(self.offset * scale + offset, shape),
        )

    def at(self, elements: IndexArray, outer: View) -> View:
        """Return what `outer`, whose elements are `elements` of this flattened view, amounts to."""
        inner = self.reshape(-1)[elements]
        return View(inner.ids, inner.scale * outer.scale, inner.offset * outer.scale + outer.offset)

    def same(self, other: View) -> bool:
        """Say whether both are the same elements with the same scale and offset."""
        return (
            self.shape == other.shape
            and np.array_equal(self.ids, other.ids)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.offset, other.offset)
        )

    def digest(self) -> bytes:
        """Equal for equal views."""
        digest = hashlib.blake2b(repr(self.shape).encode(), digest_size=16)
        for array in (self.ids, self.scale, self.offset):
            # Scales and offsets mostly are one number, which then stands for all.
            one = array.flat[:1]
            alike = bool(one.size and (array == one).all())
            digest.update(b"%d" % alike + (one if alike else array).tobytes())
        return digest.digest()


def plain_view(ids: IndexArray) -> View:
    """Return elements as they are."""
    return View(ids, np.broadcast_to(1.0, ids.shape), np.broadcast_to(0.0, ids.shape))


def finite(array: NDArray[np.generic]) -> RealArray:
    """Return a constant in float64, refusing NaN and infinity (a division by zero, a mask)."""
    real = np.asarray(array, np.float64)
    if not np.isfinite(real).all():
        raise NotRecognised("a constant that it uses is NaN or infinite")
    return real


def constant_view(array: NDArray[np.generic]) -> View:
    """Return a constant as a view."""
    offset = finite(array)
    return View(np.full(offset.shape, NONE, np.int64), np.zeros(offset.shape), offset)


@dataclass(eq=False)
class Source:
    """Something that makes new elements: `size` of them, numbered from `start` in the arena."""

    node: str
    """How messages name it: node 'name' (Operator)."""
    name: str
    """The node's name alone."""
    size: int
    start: int = field(default=0, init=False)


@dataclass(eq=False)
class Input(Source):
    """The graph's input."""


@dataclass(eq=False)
class Product(Source):
    """``rows @ weight.T``; rows [R, K], weight [O, K], elements [R, O]."""

    rows: View
    weight: FloatArray
    codes: NDArray[np.int8] | None = None
    """The weight as integers, [O, K] times a scale for each row, if the file has it so."""


@dataclass(eq=False)
class BatchProduct(Source):
    """``left @ right``; left [B, M, K], right [B, K, N], elements [B, M, N]."""

    left: View
    right: View


@dataclass(eq=False)
class Sum(Source):
    """Elementwise sum of terms of equal shape."""

    terms: tuple[View, ...]


@dataclass(eq=False)
class Times(Source):
    """Elementwise product of two."""

    left: View
    right: View


@dataclass(eq=False)
class Unary(Source):
    """Elementwise function, named by `function`."""

    function: str
    argument: View


@dataclass(eq=False)
class Norm(Source):
    """``(x - mean) / sqrt(variance + epsilon)`` of each row; rows and elements [R, C]."""

    rows: View
    epsilon: float
    plain: bool = False
    """Of no file: it stands for none, where a layer reads the rows as they are."""


@dataclass(eq=False)
class Softmax(Source):
    """Softmax of each row; rows and elements [R, S]."""

    rows: View


@dataclass(eq=False)
class RowSum(Source):
    """Sum of each row; rows [R, S], elements [R]."""

    rows: View


@dataclass(eq=False)
class Rounded:
    """A value that the file rounds to integers: it has elements of one source."""

    view: View
    quantiser: Quantiser
    _places: IndexArray | None = None

    def places(self, start: int, size: int) -> IndexArray:
        """Return where in the flattened view each of the source's elements is; NONE: nowhere."""
        if self._places is None:
            self._places = np.full(size, NONE)
            ids = self.view.ids.reshape(-1)
            there = np.flatnonzero(ids != NONE)
            self._places[ids[there] - start] = there
        return self._places


class Arena:
    """All sources of one graph, in order of creation.

    Attributes
    ----------
    weights
        Matrices that a quantised file holds as integers.
    rounded
        Values that it rounds, by their source's start, in the file's order.
    notes
        What recognition found that reports should say, and the node that it is about.
    """

    def __init__(self, weights: Sequence[QuantisedWeight] = ()) -> None:
        self.weights = weights
        self.rounded: dict[int, list[Rounded]] = {}
        self.notes: set[tuple[str, str]] = set()
        self.sources: list[Source] = []
        self._starts: list[int] = []
        self._end = 0
        self._known: dict[Hashable, Source] = {}

    def add(self, source: Source, key: Hashable = None) -> Source:
        """Number a new source's elements; an equal `key` gives the earlier source instead."""
        if key is not None:
            if key in self._known:
                return self._known[key]
            self._known[key] = source
        source.start = self._end
        self.sources.append(source)
        self._starts.append(source.start)
        self._end += source.size
        return source

    def view(self, source: Source, shape: tuple[int, ...]) -> View:
        """Return all elements of a source in its own order."""
        ids = np.arange(source.start, source.start + source.size).reshape(shape)
        return plain_view(ids)

    def sources_of(self, view: View) -> list[Source]:
        """Return the sources that a view has elements of (constants have none)."""
        ids = view.ids
        if ids.size and ids.min() == NONE:
            ids = ids[ids != NONE]
        if not ids.size:
            return []
        first, last = (bisect_right(self._starts, end) - 1 for end in (ids.min(), ids.max()))
        if first == last:  # by far the most frequent case
            return [self.sources[first]]
        return [self.sources[i] for i in np.unique(np.searchsorted(self._starts, ids, "right") - 1)]

    def source_of(self, view: View) -> Source:
        """Return the one source that every element of a view comes from.

        Raises
        ------
        NotRecognised
            There are several, or some elements are constants.
        """
        sources = self.sources_of(view)
        if not sources:
            raise NotRecognised("it is a constant")
        if len(sources) > 1:
            raise NotRecognised("it mixes " + " and ".join(source.node for source in sources[:2]))
        if (view.ids == NONE).any():
            raise NotRecognised(
                f"it mixes {sources[0].node} and constants, as a mask or padding does"
            )
        return sources[0]

    def inside(self, view: View, argument: View) -> View:
        """Return `argument`, an operand of an elementwise source, at the elements of `view`."""
        return argument.at(view.ids - self.source_of(view).start, view)
