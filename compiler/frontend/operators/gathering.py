"""Gathers from and scatters to places that are computed: chosen experts, listed tokens."""

from __future__ import annotations

import numpy as np

from moesaic.compiler.frontend import layout
from moesaic.compiler.frontend.algebra import Value, as_view
from moesaic.compiler.frontend.bounds import numbers
from moesaic.compiler.frontend.choices import Listed, Listing, Lookup, TopKIndices
from moesaic.compiler.frontend.dispatch import Dispatch, put_back
from moesaic.compiler.frontend.operators.call import Call, Operator
from moesaic.compiler.frontend.operators.choosing import hits, is_little, masked
from moesaic.compiler.frontend.views import (
    NONE,
    NotRecognised,
    View,
    check_elements,
    plain_view,
)
from moesaic.compiler.ir import IndexArray


class _Indexing:
    """How the indices of a node point into data of some shape.

    The result has the data's axes, but for those that are indexed: there it has ``span`` axes of
    the indices, behind the first ``lead``. The scatters are the gathers backwards.
    """

    def __init__(self, call: Call, shape: tuple[int, ...], indices: View) -> None:
        self._shape = shape
        self._kind = call.node.op_type.removeprefix("Gather").removeprefix("Scatter")
        axis = int(call.attributes.get("axis", 0)) % len(shape)
        rank = len(indices.shape)
        if self._kind == "ND":
            self._lead, self._span, indexed = 0, rank - 1, indices.shape[-1]
        elif self._kind == "Elements":
            self._lead, self._span, indexed = axis, 1, 1
        else:
            self._lead, self._span, indexed = axis, rank, 1
        if self._kind == "Elements":
            self.result = indices.shape
        else:
            own = indices.shape[: self._span]
            self.result = (*shape[: self._lead], *own, *shape[self._lead + indexed :])

    def spread(self, part: IndexArray) -> IndexArray:
        """Return what of an array like the indices each element goes by: [*result, n]."""
        coordinates = part if self._kind == "ND" else part[..., None]
        if self._kind != "Elements":
            after = len(self.result) - self._lead - self._span
            own = *(1,) * self._lead, *coordinates.shape[:-1], *(1,) * after
            coordinates = coordinates.reshape(*own, coordinates.shape[-1])
        return np.broadcast_to(coordinates, (*self.result, coordinates.shape[-1]))

    def places(self, indices: IndexArray) -> IndexArray:
        """Return where in the flattened data each element of the result is."""
        grid = list(np.indices(self.result, sparse=True))
        coordinates = list(np.moveaxis(self.spread(indices), -1, 0))
        every = grid[: self._lead] + coordinates + grid[self._lead + self._span :]
        wrapped = []
        for size, part in zip(self._shape, every, strict=True):
            if ((part < -size) | (part >= size)).any():
                raise NotRecognised("an index is out of range")
            wrapped.append(np.broadcast_to(np.where(part < 0, part + size, part), self.result))
        return np.ravel_multi_index(tuple(wrapped), self._shape).astype(np.int64)

    def owners(self, part: IndexArray) -> IndexArray:
        """Return the one number beside NONE that each element of the result goes by."""
        each = self.spread(part)
        owner = each.max(axis=-1)
        if ((each != owner[..., None]) & (each != NONE)).any() or (owner == NONE).any():
            raise NotRecognised(
                "its indices do not belong to one place of a mask or one chosen expert each"
            )
        return owner


def _whole(values: np.ndarray) -> IndexArray:
    whole = np.rint(values).astype(np.int64)
    if (whole != values).any():
        raise NotRecognised("its indices are no whole numbers")
    return whole


def _listed(call: Call, indices: View) -> tuple[Listing, IndexArray, IndexArray] | None:
    """Return the listing that indices come from, what they are, and which place each is of."""
    found = numbers(call.algebra.arena, indices)
    if found is None:
        return None
    listing, values, places = found
    if listing is None:
        return None
    return listing, _whole(values), places


def _chosen(call: Call, indices: View) -> TopKIndices:
    """Return the choice that indices come from."""
    sources = call.algebra.arena.sources_of(indices)
    if len(sources) == 1 and isinstance(sources[0], TopKIndices):
        return sources[0]
    names = " and ".join(source.node for source in sources[:2])
    raise NotRecognised(
        f"its indices come from {names}: only the numbers of chosen experts (TopK, ArgMax) and the "
        "places of a mask (NonZero) are followed"
    )


def gather(call: Call) -> list[Value]:
    """Gather, GatherND or GatherElements by indices that are computed."""
    data, indices, algebra = call.view(0), call.view(1), call.algebra
    indexing = _Indexing(call, data.shape, indices)
    size = int(np.prod(indexing.result))
    check_elements(size, "its result")
    if (found := _listed(call, indices)) is not None:
        listing, values, places = found
        listed = Listed(
            algebra.node,
            algebra.name,
            size,
            listing=listing,
            places=indexing.owners(places).reshape(-1),
            value=data.reshape(-1)[indexing.places(values).reshape(-1)],
        )
        return [algebra.arena.view(algebra.arena.add(listed), indexing.result)]
    source = _chosen(call, indices)
    there = indices.ids != NONE
    if not (indices.scale[there] == 1).all():
        raise NotRecognised(f"the numbers from {source.node} are scaled")
    count = source.values.rows.shape[1]
    offset = _whole(indices.offset)
    first, last = (indexing.places(offset + there * number) for number in (0, count - 1))
    stride = (last - first) // max(count - 1, 1)
    if (stride != stride.flat[0]).any():
        raise NotRecognised(f"the numbers from {source.node} are used along several axes")
    looked_up = Lookup(
        algebra.node,
        algebra.name,
        size,
        index=plain_view(indexing.owners(indices.ids).reshape(-1)),
        data=data.reshape(-1),
        origin=first.reshape(-1),
        stride=int(stride.flat[0]),
    )
    return [algebra.arena.view(algebra.arena.add(looked_up), indexing.result)]


def _scatter(call: Call) -> list[Value]:
    """ScatterElements or ScatterND to places that are computed."""
    base, indices, updates = call.value(0), call.view(1), call.view(2)
    shape = base.shape if isinstance(base, View) else np.shape(base)
    reduction = call.attributes.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise NotRecognised(f"attribute 'reduction' must be 'none' or 'add', not {reduction!r}")
    if (found := _listed(call, indices)) is None:
        return [_table(call, _chosen(call, indices), base, indices, updates, reduction)]
    listing, values, places = found
    indexing = _Indexing(call, shape, indices)
    if updates.shape != indexing.result:
        raise NotRecognised(f"its updates must have the shape {indexing.result}")
    dispatch = Dispatch(
        listing, indexing.places(values).reshape(-1), indexing.owners(places).reshape(-1)
    )
    return [put_back(call.algebra, base, dispatch, updates.reshape(-1), reduction)]


def _table(
    call: Call, source: TopKIndices, base: Value, indices: View, updates: View, reduction: str
) -> Value:
    """Scatter to the numbers of chosen experts: a sum over slots, as their numbers differ."""
    if isinstance(base, View) or (np.any(base) and not is_little(base)):
        raise NotRecognised("it must scatter onto a constant of zeros, or of -inf")
    if call.node.op_type != "ScatterElements":
        raise NotRecognised("the numbers of chosen experts are scattered by ScatterElements only")
    algebra, axis = call.algebra, int(call.attributes.get("axis", 0)) % base.ndim
    width = base.shape[axis]
    rows = np.moveaxis(base, axis, -1).shape[:-1]
    indices, updates = indices.move_last((axis,)), updates.move_last((axis,))
    if indices.shape[:-1] != rows or updates.shape != indices.shape:
        raise NotRecognised("indices, updates and data must have the same rows")
    token, slot = np.divmod(indices.ids - source.start, source.values.k)
    slots = np.sort(slot, axis=-1)
    if (
        not indices.is_plain
        or (token != token[..., :1]).any()
        or (slots[..., 1:] == slots[..., :-1]).any()
        or width < source.values.rows.shape[1]
    ):
        raise NotRecognised(f"its indices are not the numbers from {source.node} as they are")
    mask = hits(indices, algebra, width)
    weighted = as_view(algebra.times(mask, layout.simplify(updates[..., None, :])))
    total = algebra.row_sum(weighted.broadcast(mask.shape))
    if np.any(base):
        if reduction == "add":
            raise NotRecognised("it adds to -inf")
        total = masked(algebra, algebra.row_sum(mask), total)
    return total.move_back(axis)


def non_zero(call: Call) -> list[Value]:
    """Give the places of a mask: see `dispatch`."""
    mask, algebra = call.view(0), call.algebra
    rank, count = len(mask.shape), mask.ids.size
    check_elements(rank * count, "its result")
    listing = Listing(
        algebra.node, algebra.name, rank * count, mask=mask.reshape(-1), shape=mask.shape
    )
    key = "listing", listing.mask.digest(), mask.shape
    return [algebra.arena.view(algebra.arena.add(listing, key), (rank, count))]


GATHERS = {
    "Gather": Operator(gather, 2, ("axis",)),
    "GatherElements": Operator(gather, 2, ("axis",)),
    "GatherND": Operator(gather, 2, (), {"batch_dims": (0,)}),
    "NonZero": Operator(non_zero, 1),
    "ScatterElements": Operator(_scatter, 3, ("axis", "reduction")),
    "ScatterND": Operator(_scatter, 3, ("reduction",)),
}
