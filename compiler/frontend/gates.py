"""Which values are gate weights, and which sums are mixtures of experts: told by their leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from moesaic.compiler.frontend.choices import (
    Compare,
    Counted,
    Lookup,
    Masked,
    TopKIndices,
    TopKValues,
)
from moesaic.compiler.frontend.views import (
    Arena,
    BatchProduct,
    Product,
    RowSum,
    Softmax,
    Source,
    Sum,
    Times,
    Unary,
    View,
)


def is_gate(arena: Arena, view: View) -> bool:
    """Say whether values are made of scores and choices alone."""
    return _holds(arena, view) == {True}


def is_weighted(arena: Arena, view: View) -> bool:
    """Say whether scores or choices are among what values are made of."""
    return True in _holds(arena, view)


def inner(source: Source) -> Sequence[View]:
    """Return what values are computed from element by element, or by adding up a row; of anything
    else nothing."""
    match source:
        case Sum():
            return source.terms
        case Times():
            return source.left, source.right
        case RowSum():
            return (source.rows,)
        case Unary():
            return (source.argument,)
        case _:
            return ()


def leaves_of(
    arena: Arena, view: View, inside: Callable[[Source], Sequence[View]] = inner
) -> Iterator[Source]:
    """Yield the sources that a view is made of in the end, each once: those of which ``inside``
    returns nothing."""
    waiting: list[View] = [view]
    seen: set[int] = set()
    while waiting:
        for source in arena.sources_of(waiting.pop()):
            if source.start in seen:
                continue
            seen.add(source.start)
            parts = inside(source)
            if parts:
                waiting += parts
            else:
                yield source


def _holds(arena: Arena, view: View) -> set[bool]:
    """Return True for scores and choices, False for other values, at the leaves of a view."""
    found: set[bool] = set()
    for source in leaves_of(arena, view):
        match source:
            case Compare() | Counted() | Masked() | TopKIndices() | TopKValues() | Softmax():
                found.add(True)
            case BatchProduct():
                sides = [_holds(arena, part) for part in (source.left, source.right)]
                found.add(all(side <= {True} for side in sides))
            case Lookup():
                data = _holds(arena, source.data)
                found |= {True} if _are_scores(arena, source) else data or {True}
            case _:
                found.add(False)
    return found


def _are_scores(arena: Arena, source: Lookup) -> bool:
    """Say whether a choice looks something up that is made, element by element, of what it chose
    from: no expert is."""
    (chosen,) = arena.sources_of(source.index)
    assert isinstance(chosen, TopKIndices)
    routers = _products(arena, chosen.values.rows)
    return bool(routers) and _products(arena, source.data) == routers


def _products(arena: Arena, view: View) -> set[int]:
    """Return the linear layers that scores are computed from."""

    def inside(source: Source) -> Sequence[View]:
        return (source.rows,) if isinstance(source, Softmax) else inner(source)

    return {source.start for source in leaves_of(arena, view, inside)}


def is_weighted_product(arena: Arena, source: BatchProduct) -> bool:
    return is_weighted(arena, source.left) or is_weighted(arena, source.right)


def is_mixture(arena: Arena, term: View) -> bool:
    """Say whether a term of the residual stream is, or holds, an expert times its weight."""
    source = arena.source_of(term)
    if isinstance(source, BatchProduct):
        return is_weighted_product(arena, source)
    if isinstance(source, Product):
        return is_weighted(arena, source.rows)
    return is_weighted(arena, term) or isinstance(source, Times)
