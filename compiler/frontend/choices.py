"""Sources that choose: what of a value depends on which experts a token got.

Numbers of experts are small whole numbers and masks are 0 or 1: both are elements like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.frontend.views import Source, View
from moesaic.compiler.ir import FloatArray, IndexArray


@dataclass(eq=False)
class TopKValues(Source):
    """The `k` largest of each row; rows [R, S], elements [R, k]."""

    rows: View
    k: int
    ordered: bool = True
    """Largest first; else in any order."""


@dataclass(eq=False)
class TopKIndices(Source):
    """The columns that `values` came from; elements [R, k]."""

    values: TopKValues


@dataclass(eq=False)
class Compare(Source):
    """1 where ``left`` is equal to, greater or less than ``right``, else 0; elementwise."""

    relation: str
    """equal, greater or less."""
    left: View
    right: View


@dataclass(eq=False)
class Masked(Source):
    """``value`` where ``mask`` is 1, else so little that a softmax makes 0 of it; elementwise."""

    mask: View
    value: View


@dataclass(eq=False)
class Counted(Source):
    """Sums of each row up to each column; rows and elements [R, S]."""

    rows: View


@dataclass(eq=False)
class Lookup(Source):
    """``data[origin + index * stride]``; index [R], data [P], elements [R].

    Elements of ``index`` are those of one `TopKIndices`, as they are.
    """

    index: View
    data: View
    origin: IndexArray
    stride: int

    def at(self, number: int) -> View:
        """Return the elements [R] for the index `number`."""
        return self.data[self.origin + number * self.stride]


@dataclass(eq=False)
class Listing(Source):
    """Where a mask [N], of ``shape`` before it was flattened, is 1: ONNX's NonZero.

    How many places these are is not known. Element (a, i) of [rank, N] is the coordinate a of place
    i, whether the mask has it or not: see `dispatch`.

    Attributes
    ----------
    repeats
        A mask that was spread over so many channels lists all of a place, one after the other.
    key
        Equal for masks that are equal but for that.
    """

    mask: View
    shape: tuple[int, ...]
    repeats: int = field(default=1, init=False)
    key: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        for axis in range(len(self.shape)):
            inner = int(np.prod(self.shape[axis:]))
            parts = self.mask.reshape(-1, inner)
            if parts.same(parts[:, :1].broadcast(parts.shape)):
                self.repeats = inner
                break
        self.key = self.mask[:: self.repeats].digest()

    @property
    def coordinates(self) -> IndexArray:
        """[rank, N]."""
        return np.indices(self.shape).reshape(len(self.shape), -1)


@dataclass(eq=False)
class Listed(Source):
    """Values that are there only where a listing has their place; elements [R]."""

    listing: Listing
    places: IndexArray
    """[R], below the listing's number of places."""
    value: View


@dataclass(frozen=True, eq=False)
class ExpertLinear:
    """A linear layer of one expert of a node."""

    weight: FloatArray
    """[outputs, inputs]."""
    bias: FloatArray
    """[outputs]."""
    codes: NDArray[np.int8] | None = None
    """[outputs, inputs], where the file has the weight as these times a scale of each row."""


@dataclass(frozen=True, eq=False)
class SwiGlu:
    """``g * sigmoid(alpha * g) * (l + beta)`` of g, which ``up`` of the experts gives, clipped to
    at most ``limit``, and of l, which ``factors`` give, clipped to plus and minus that."""

    factors: list[ExpertLinear]
    alpha: float
    beta: float
    limit: float


@dataclass(eq=False)
class Experts(Source):
    """A com.microsoft.MoE or QMoE node; rows [R, C], logits [R, E], elements [R, C]."""

    rows: View
    logits: View
    up: list[ExpertLinear]
    """C inputs, of each expert."""
    down: list[ExpertLinear]
    """C outputs."""
    top_k: int
    renormalise: bool
    activation: str
    """Of ``spec.activations``; with ``swiglu`` what g goes through."""
    swiglu: SwiGlu | None = None
    quantised: bool = False
    """Whether the file has the weights as integers."""
