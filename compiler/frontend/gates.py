"""Which values are gate weights, and which sums are mixtures of experts: told by their leaves."""

from __future__ import annotations

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


def _holds(arena: Arena, view: View) -> set[bool]:
    """Return True for scores and choices, False for other values, at the leaves of a view."""
    found: set[bool] = set()
    waiting: list[View] = [view]
    seen: set[int] = set()
    while waiting:
        for source in arena.sources_of(waiting.pop()):
            if source.start in seen:
                continue
            seen.add(source.start)
            match source:
                case Sum():
                    waiting += source.terms
                case Times():
                    waiting += [source.left, source.right]
                case RowSum():
                    waiting.append(source.rows)
                case Unary():
                    waiting.append(source.argument)
                case Compare() | Counted() | Masked() | TopKIndices() | TopKValues() | Softmax():
                    found.add(True)
                case BatchProduct():
                    sides = [_holds(arena, part) for part in (source.left, source.right)]
                    found.add(all(side <= {True} for side in sides))
                case Lookup():
                    inner = _holds(arena, source.data)
                    found |= {True} if _are_scores(arena, source) else inner or {True}
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
    found: set[int] = set()
    waiting: list[View] = [view]
    seen: set[int] = set()
    while waiting:
        for source in arena.sources_of(waiting.pop()):
            if source.start in seen:
                continue
            seen.add(source.start)
            match source:
                case Sum():
                    waiting += source.terms
                case Times():
                    waiting += [source.left, source.right]
                case Unary():
                    waiting.append(source.argument)
                case RowSum() | Softmax():
                    waiting.append(source.rows)
                case _:
                    found.add(source.start)
    return found


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
