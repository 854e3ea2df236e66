"""The signs of formulas of gate weights, and the reciprocals among their atoms."""

from __future__ import annotations

import numpy as np

from moesaic.compiler.frontend.atoms import LOWEST, POSITIVE, TOTAL, as_number, atom, is_zero
from moesaic.compiler.frontend.formula import Formula, constant
from moesaic.compiler.frontend.views import NotRecognised, Source


class Signs:
    """Atoms behind `LOWEST` are reciprocals of formulas of lower atoms; this says of which."""

    def __init__(self, floor: float) -> None:
        """``floor``: the share of the experts that is chosen, which `TOTAL` at least is."""
        self._floor = floor
        self._reciprocals: list[Formula] = []

    def reciprocal(self, argument: Formula, source: Source) -> Formula:
        """Return one over a formula."""
        number = as_number(argument)
        if number is not None:
            if number == 0:
                raise NotRecognised(f"{source.node} divides by 0")
            return constant(np.array([1.0 / number]))
        for place, known in enumerate(self._reciprocals):
            if known.close(argument):
                return atom(LOWEST + 1 + place)
        self._reciprocals.append(argument)
        return atom(LOWEST + len(self._reciprocals))

    def reciprocal_of(self, number: int) -> Formula | None:
        """Return what an atom is the reciprocal of, if it is one."""
        place = number - LOWEST - 1
        return self._reciprocals[place] if place >= 0 else None

    def sign(self, formula: Formula) -> int | None:
        """Return 1, 0 or -1 where that is the sign of a formula for all numbers."""
        if is_zero(formula):
            return 0
        if set(formula.terms) == {((TOTAL, 1),), ()}:
            factor = formula.coefficient(((TOTAL, 1),))
            least = factor * self._floor + formula.coefficient(())
            if (factor > 0).all() and (least > 0).all():
                return 1
        signs = set()
        for monomial, value in formula.terms.items():
            if not np.any(value):
                continue
            if not all(self._is_positive(number) for number, _ in monomial):
                return None
            signs.add(int(np.sign(np.ravel(value)[0])))
        return signs.pop() if len(signs) == 1 else None

    def _is_positive(self, number: int) -> bool:
        """Whether an atom is above 0; what it is the reciprocal of has lower atoms only."""
        argument = self.reciprocal_of(number)
        return number in POSITIVE or (argument is not None and self.sign(argument) == 1)
