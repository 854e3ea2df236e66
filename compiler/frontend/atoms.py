"""What the weight of an expert is a formula of, and in which cases it is read.

In each case every mask, comparison and table of the file has a value that is known: 0, 1, the
expert's own score. What is left is a formula of few atoms, and equal formulas are equal for all
numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from moesaic.compiler.frontend.formula import Formula, Monomial
from moesaic.compiler.frontend.views import NotRecognised, View

LOGIT, PROBABILITY, SHARE, TOTAL, SIGMOID, SIGMOIDS, LOWEST = range(7)
"""Atoms: the expert's logit, its softmax among all, its softmax among the chosen, the sum of the
chosen experts' softmax among all, the sigmoid of its logit, the sum of the chosen experts'
sigmoids, and what a softmax makes 0 of. Those behind are reciprocals, see `Signs`."""
POSITIVE = (PROBABILITY, SHARE, TOTAL, SIGMOID, SIGMOIDS)
SUMS = {PROBABILITY: TOTAL, SIGMOID: SIGMOIDS}
"""Weights that can be divided by their sum over the chosen experts, which is an atom too."""
CLOSE = 1e-6
"""Relative difference of equal constants."""


class Undetermined(NotRecognised):
    """A value depends on what another slot holds, or on another expert."""


class Case(NamedTuple):
    """An expert is in a slot of the choice, or with None in no slot: it is not chosen."""

    expert: int
    slot: int | None


Read = Callable[[View, Case], Formula]
"""Returns what [T] values are in a case, see `Routing.read`."""


def atom(number: int) -> Formula:
    """Return one of the atoms."""
    return Formula({((number, 1),): np.ones(1)})


def is_zero(formula: Formula) -> bool:
    """Say whether a formula is 0."""
    return not any(np.any(value) for value in formula.terms.values())


def as_number(formula: Formula) -> float | None:
    """Return the number that a formula is, None if it is none."""
    if is_zero(formula):
        return 0.0
    if set(formula.terms) != {()}:
        return None
    return float(np.ravel(formula.terms[()])[0])


def only(formula: Formula, monomial: Monomial) -> float | None:
    """Return the factor of a monomial that a formula has alone, None if there is more."""
    terms = {m: v for m, v in formula.terms.items() if np.any(v)}
    return float(np.ravel(terms[monomial])[0]) if set(terms) == {monomial} else None


def one_of_all(array: np.ndarray, what: str) -> float:
    """Return the number that all tokens have."""
    first = array.flat[0]
    if not (array == first).all():
        raise NotRecognised(f"{what} differs between tokens")
    return first  # type: ignore[no-any-return]
