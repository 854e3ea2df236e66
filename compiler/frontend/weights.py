"""Which of the weights that the accelerator has the weight of an expert is."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from moesaic.compiler.frontend.atoms import SHARE, SIGMOID, SUMS, as_number, is_zero, only
from moesaic.compiler.frontend.formula import Formula
from moesaic.compiler.frontend.routing import Routing
from moesaic.compiler.frontend.views import NotRecognised

TINY = 1e-5
"""Largest constant beside the sum that chosen gate weights are divided by."""


class Kind(NamedTuple):
    """What a weight is, as :class:`ir.Moe` has it."""

    renormalise: bool
    sigmoid: bool = False


def settle(routing: Routing, formulas: list[Formula], expert: int) -> tuple[float, Kind, float]:
    """Return a factor, what kind of weight it is on, and what is added to the sum of those."""
    *slots, none = formulas
    if routing.scores.choice is None:
        slots = [none]
    elif not is_zero(none):
        raise NotRecognised(f"expert {expert} of {routing.node} counts where it is not chosen")
    first = slots[0]
    if any(not first.close(other) for other in slots[1:]):
        raise NotRecognised(
            f"the weight of expert {expert} depends on its rank among those that {routing.node} "
            "chose"
        )
    for own in SUMS:
        if (factor := only(first, ((own, 1),))) is not None:
            return factor, Kind(False, own == SIGMOID), 0.0
    if (factor := only(first, ((SHARE, 1),))) is not None:
        return factor, Kind(True), 0.0
    if routing.scores.slots == 1 and (number := as_number(first)) is not None:
        return number, Kind(True), 0.0  # one expert, by its own weight
    for own, monomial in itertools.product(SUMS, first.terms):
        total = own if routing.scores.slots == 1 else SUMS[own]
        numbers = dict(monomial)
        inverse = next((n for n in numbers if routing.reciprocal_of(n) is not None), None)
        if numbers != {own: 1, inverse: 1} or inverse is None:
            continue
        factor = only(first, monomial)
        argument = routing.reciprocal_of(inverse)
        if factor is None or argument is None or not set(argument.terms) <= {((total, 1),), ()}:
            continue
        of_sum = float(np.ravel(argument.coefficient(((total, 1),)))[0])
        epsilon = float(np.ravel(argument.coefficient(()))[0]) / of_sum if of_sum > 0 else -1.0
        if not 0 <= epsilon <= TINY:
            raise NotRecognised(
                f"{epsilon:g} is added to the sum that the weights of {routing.node} are divided "
                f"by, at most {TINY:g} is supported"
            )
        return factor / of_sum, Kind(True, own == SIGMOID), epsilon
    raise NotRecognised(
        f"the weights of the experts that {routing.node} chose must be their softmax or sigmoids, "
        "as they are or divided by their sum over the chosen, times a number"
    )
