"""What is known of whole numbers: masks, numbers of experts, places, counts."""

from __future__ import annotations

import numpy as np

from moesaic.compiler.frontend.choices import (
    Compare,
    Counted,
    Listing,
    Lookup,
    TopKIndices,
    TopKValues,
)
from moesaic.compiler.frontend.views import (
    NONE,
    Arena,
    RealArray,
    RowSum,
    Source,
    Sum,
    Times,
    View,
)
from moesaic.compiler.ir import IndexArray

Bounds = tuple[RealArray, RealArray]
"""Least and largest value of each element, in the view's shape."""


def bounds(arena: Arena, view: View) -> Bounds | None:
    """Return what whole numbers are between; None if they are not known to be whole."""
    if (view.scale != np.rint(view.scale)).any() or (view.offset != np.rint(view.offset)).any():
        return None
    low, high = np.zeros(view.shape), np.zeros(view.shape)
    for source in arena.sources_of(view):
        inside = (view.ids >= source.start) & (view.ids < source.start + source.size)
        found = _of_source(arena, source, view.ids[inside] - source.start)
        if found is None:
            return None
        low[inside], high[inside] = found
    ends = low * view.scale, high * view.scale
    return np.minimum(*ends) + view.offset, np.maximum(*ends) + view.offset


def is_mask(arena: Arena, view: View) -> bool:
    """Say whether all elements are 0 or 1."""
    found = bounds(arena, view)
    return found is not None and bool((found[0] >= 0).all() and (found[1] <= 1).all())


def _of_source(arena: Arena, source: Source, local: np.ndarray) -> Bounds | None:
    match source:
        case Compare():
            return np.zeros(local.shape), np.ones(local.shape)
        case TopKIndices():
            return np.zeros(local.shape), np.full(local.shape, source.values.rows.shape[1] - 1.0)
        case Listing():
            most = np.array(source.shape)[local // source.mask.ids.size] - 1.0
            return np.zeros(local.shape), most
        case Sum() | Times():
            sum_of = isinstance(source, Sum)
            terms = source.terms if isinstance(source, Sum) else (source.left, source.right)
            found = [bounds(arena, term.reshape(-1)[local]) for term in terms]
            total: Bounds | None = found[0]
            for part in found[1:]:
                if total is None or part is None:
                    return None
                total = _added(total, part) if sum_of else _multiplied(total, part)
            return total
        case RowSum():
            rows = source.rows[local]
            if exclusive(arena, rows):
                return np.zeros(local.shape), np.ones(local.shape)
            part = bounds(arena, rows)
            return part and (part[0].sum(-1), part[1].sum(-1))
        case Counted():
            width = source.rows.shape[1]
            part = bounds(arena, source.rows[local // width])
            if part is None:
                return None
            before = np.arange(width) <= (local % width)[:, None]
            return (part[0] * before).sum(-1), (part[1] * before).sum(-1)
        case TopKValues():
            part = bounds(arena, source.rows[local // source.k])
            return part and (part[0].min(-1), part[1].max(-1))
        case Lookup():
            part = bounds(arena, source.data)
            if part is None or not part[0].size:
                return None
            return np.full(local.shape, part[0].min()), np.full(local.shape, part[1].max())
        case _:
            return None


def _added(one: Bounds, other: Bounds) -> Bounds:
    return one[0] + other[0], one[1] + other[1]


def _multiplied(one: Bounds, other: Bounds) -> Bounds:
    products = np.stack([a * b for a in one for b in other])
    return products.min(0), products.max(0)


def numbers(arena: Arena, view: View) -> tuple[Listing | None, RealArray, IndexArray] | None:
    """Return the listing that places come from, their values, and which place each is of.

    None if they are anything else; NONE for the place of a constant.
    """
    values: RealArray = view.offset.copy()
    places: IndexArray = np.full(view.shape, NONE)
    listing: Listing | None = None
    for source in arena.sources_of(view):
        inside = (view.ids >= source.start) & (view.ids < source.start + source.size)
        local = view.ids[inside] - source.start
        if isinstance(source, Listing):
            own, at = source.coordinates.reshape(-1)[local].astype(float), source
            place = local % source.mask.ids.size
        elif isinstance(source, Sum):
            parts = [numbers(arena, term.reshape(-1)[local]) for term in source.terms]
            if any(part is None for part in parts):
                return None
            found = {id(p[0]): p[0] for p in parts if p and p[0] is not None}
            if len(found) != 1:
                return None
            (at,) = found.values()
            own = np.sum([p[1] for p in parts if p], axis=0)
            each = np.stack([p[2] for p in parts if p])
            place = each.max(axis=0)
            if ((each != place) & (each != NONE)).any():
                return None
        else:
            return None
        if listing not in (None, at):
            return None
        listing = at
        values[inside] += view.scale[inside] * own
        places[inside] = place
    return listing, values, places


def exclusive(arena: Arena, masks: View) -> bool:
    """Say whether at most one of each row of masks [R, n] is 1: an expert is chosen once."""
    sources = arena.sources_of(masks)
    if len(sources) != 1 or (masks.ids == NONE).any() or not masks.is_plain:
        return False
    compare = sources[0]
    if not isinstance(compare, Compare) or compare.relation != "equal":
        return False
    index, number = arena.inside(masks, compare.left), arena.inside(masks, compare.right)
    if index.is_constant:
        index, number = number, index
    inner = arena.sources_of(index)
    if len(inner) != 1 or not isinstance(inner[0], TopKIndices) or not index.is_plain:
        return False
    row, slot = np.divmod(index.ids - inner[0].start, inner[0].values.k)
    slots = np.sort(slot, axis=1)
    return bool(
        number.is_constant
        and (number.offset == number.offset[:, :1]).all()
        and (row == row[:, :1]).all()
        and (slots[:, 1:] != slots[:, :-1]).all()
    )
