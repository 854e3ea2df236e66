"""Tokens that are gathered by a mask, and results that are put back where they came from.

How many tokens a mask (NonZero) lists depends on the data. What is gathered stands here for *every*
place that the mask could have, and remembers its place (`Listed`). That is the same as long as no
element depends on more than one place, and results are put back by the same places: then what comes
back is the result for every place times the mask. All else is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesaic.compiler.frontend.algebra import Algebra, Value, as_view, stack_views
from moesaic.compiler.frontend.bounds import exclusive
from moesaic.compiler.frontend.choices import Listed, Listing
from moesaic.compiler.frontend.substitute import Labels, Substitution
from moesaic.compiler.frontend.views import (
    NONE,
    NotRecognised,
    Source,
    Sum,
    View,
    constant_view,
)
from moesaic.compiler.ir import IndexArray


@dataclass
class Dispatch:
    """Where U updates go: ``targets`` [U] in the flattened data; ``places`` [U] of the listing."""

    listing: Listing
    targets: IndexArray
    places: IndexArray


def put_back(
    algebra: Algebra, base: Value, dispatch: Dispatch, updates: View, reduction: str
) -> Value:
    """Scatter updates [U] to the places of a listing.

    Parameters
    ----------
    reduction
        none or add.

    Raises
    ------
    NotRecognised
        An update is of another place than where it goes, or some places are left out.
    """
    listing, arena = dispatch.listing, algebra.arena
    missing = listing.mask.ids.size - np.unique(dispatch.places).size
    if missing:
        raise NotRecognised(
            f"it leaves out {missing} of {listing.mask.ids.size} places that {listing.node} may "
            "list: experts with a capacity drop tokens, which the accelerator does not; raise the "
            "capacity to the number of tokens"
        )

    def own(source: Source) -> IndexArray | None:
        if not isinstance(source, Listed) or source.listing.key != listing.key:
            return None
        return source.places // source.listing.repeats

    def value_of(source: Source) -> View | None:
        found = isinstance(source, Listed) and source.listing.key == listing.key
        return source.value if isinstance(source, Listed) and found else None

    first = next(s.start for s in arena.sources if isinstance(s, Listing) and s.key == listing.key)
    labels = Labels(arena, first, own).of(updates)
    alone = labels == NONE
    same = not alone.any() or (updates[alone].is_constant and np.ptp(updates[alone].offset) == 0)
    if not same or not (alone | (labels == dispatch.places // listing.repeats)).all():
        raise NotRecognised(
            f"what it puts back at the places of {listing.node} is not computed from each place by "
            "itself"
        )
    node, name = algebra.node, algebra.name
    value = as_view(Substitution(arena, first, value_of).of(updates))
    shape = base.shape if isinstance(base, View) else np.shape(base)
    flat = as_view(base).reshape(-1)
    # [touched, n]: the updates of each element that has any.
    order = np.argsort(dispatch.targets, kind="stable")
    touched, counts = np.unique(dispatch.targets, return_counts=True)
    if (counts != counts[0]).any():
        raise NotRecognised(f"the places of {listing.node} are not listed evenly")
    order = order.reshape(touched.size, -1)
    guards = listing.mask[dispatch.places][order]
    value = value[order]
    before = flat[touched]
    if reduction == "none":
        if order.shape[1] > 1 and not exclusive(arena, guards):
            raise NotRecognised(
                f"its updates may overwrite each other at the places of {listing.node}: "
                "export with reduction 'add'"
            )
        value = _without(algebra, value, before)
    total: Value = before.offset if before.is_constant else before
    for column in range(order.shape[1]):
        part = algebra.times(guards[:, column], _plain(value[:, column]))
        total = algebra.add(total, part)
    after = as_view(total)
    algebra.node, algebra.name = node, name
    ids, scale, offset = flat.ids.copy(), flat.scale.copy(), flat.offset.copy()
    ids[touched], scale[touched], offset[touched] = after.ids, after.scale, after.offset
    return View(ids, scale, offset).reshape(*shape)


def _plain(view: View) -> Value:
    return view.offset if view.is_constant else view


def _without(algebra: Algebra, value: View, before: View) -> View:
    """Return [R, n] values minus what was there before, [R]: ``x[i] = x[i] + y`` adds y."""
    if before.is_constant and not before.offset.any():
        return value
    columns = []
    for column in range(value.shape[1]):
        columns.append(_difference(algebra, value[:, column], before))
    return stack_views(columns, axis=1)


def _difference(algebra: Algebra, value: View, before: View) -> View:
    sources = algebra.arena.sources_of(value)
    if np.array_equal(value.ids, before.ids) and np.array_equal(value.scale, before.scale):
        return constant_view(value.offset - before.offset)
    if len(sources) == 1 and isinstance(sources[0], Sum) and (value.ids != NONE).all():
        terms = [algebra.arena.inside(value.unshifted, term) for term in sources[0].terms]
        for number, term in enumerate(terms):
            if np.array_equal(term.ids, before.ids) and np.array_equal(term.scale, before.scale):
                rest: Value = value.offset + term.offset - before.offset
                for other in (*terms[:number], *terms[number + 1 :]):
                    rest = algebra.add(rest, other)
                return as_view(rest)
    return as_view(algebra.add(value, algebra.scale(_plain(before), -1.0)))
