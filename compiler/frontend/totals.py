"""Sums and softmaxes over several experts: over all, or over the chosen ones.

Each value in such a row is read by the cases of its own expert; equal formulas for all of them make
the sum one atom more.
"""

from __future__ import annotations

import numpy as np

from moesaic.compiler.frontend.atoms import (
    LOGIT,
    LOWEST,
    PROBABILITY,
    SHARE,
    SIGMOID,
    SIGMOIDS,
    TOTAL,
    Case,
    Read,
    Undetermined,
    atom,
    is_zero,
    one_of_all,
    only,
)
from moesaic.compiler.frontend.formula import Formula, constant
from moesaic.compiler.frontend.operators.choosing import LITTLE
from moesaic.compiler.frontend.scores import Scores
from moesaic.compiler.frontend.views import NotRecognised, Softmax, Source, View
from moesaic.compiler.ir import IndexArray


class Totals:
    """Reads sums and softmaxes of rows."""

    def __init__(self, scores: Scores, read: Read) -> None:
        self._scores, self._read = scores, read
        self._known: dict[bytes, tuple[Formula, Formula | None]] = {}

    def sum(self, source: Source, rows: View, case: Case) -> Formula:
        """Return the sum of [T, S] values over S."""
        try:
            total = Formula({})
            for column in range(rows.shape[1]):
                total = total + self._read(rows[:, column], case)
            return total
        except Undetermined as error:
            first = error
        try:
            chosen, other = self._each(rows, source)
        except Undetermined:
            raise first from None
        scores = self._scores
        count = scores.slots
        if other is not None and not is_zero(other):
            if not other.close(chosen):
                raise Undetermined(f"experts that are not chosen, at {source.node}")
            count = scores.experts
        every = count == scores.experts
        total = Formula({})
        for monomial, value in chosen.terms.items():
            if monomial == ():
                total = total + constant(value * count)
            elif monomial == ((PROBABILITY, 1),):
                sum_of = constant(np.ones(1)) if every else atom(TOTAL)
                total = total + sum_of.affine(value, 0.0)
            elif (
                monomial == ((SIGMOID, 1),) and scores.choice is not None and count == scores.slots
            ):
                total = total + atom(SIGMOIDS).affine(value, 0.0)
            elif monomial == ((SHARE, 1),) and (other is None or is_zero(other)):
                total = total + constant(value)
            elif np.any(value):
                raise Undetermined(f"a sum at {source.node} of other things than weights")
        return total

    def softmax(self, source: Softmax, local: IndexArray, case: Case) -> Formula:
        """Return elements [T] of a softmax of logits."""
        width = source.rows.shape[1]
        rows = source.rows[local // width]
        column = int(one_of_all(local % width, f"the column of {source.node}"))
        chosen, other = self._each(rows, source)
        self._scores.set_slope(chosen, source)
        if other is None:
            if case.slot is None or not self._is_determined(rows[:, column], case):
                raise Undetermined(f"the softmax of what else {self._scores.node} chose")
            return atom(SHARE)
        if column != case.expert:
            raise Undetermined(f"the softmax of another expert than {case.expert}")
        if other.close(chosen):
            return atom(PROBABILITY)
        if not _is_lowest(other):
            raise NotRecognised(f"{source.node} does not mask experts that are not chosen")
        return constant(np.zeros(1)) if case.slot is None else atom(SHARE)

    def _is_determined(self, view: View, case: Case) -> bool:
        try:
            self._read(view, case)
        except Undetermined:
            return False
        return True

    def _each(self, rows: View, source: Source) -> tuple[Formula, Formula | None]:
        """Read [T, S] values, one of each slot or one of each expert, by their own cases.

        Returns what each is for a chosen expert, and for one that is not; None for slots.
        """
        key = rows.digest()
        if key not in self._known:
            self._known[key] = self._find_each(rows, source)
        return self._known[key]

    def _find_each(self, rows: View, source: Source) -> tuple[Formula, Formula | None]:
        scores, width = self._scores, rows.shape[1]
        if scores.choice is not None and width == scores.choice.k:
            try:
                return self._of_slots(rows, source, width), None
            except Undetermined:
                pass
        if width != scores.experts:
            raise Undetermined(
                f"{source.node}, which takes neither all experts nor all chosen ones"
            )
        chosen: list[Formula] = []
        others: list[Formula] = []
        for e in range(width):
            others.append(self._read(rows[:, e], Case(e, None)))
            if scores.choice is not None:
                slots = range(scores.choice.k)
                chosen += [self._read(rows[:, e], Case(e, slot)) for slot in slots]
        chosen = chosen or others
        return _all_one(chosen, source), _all_one(others, source)

    def _of_slots(self, rows: View, source: Source, slots: int) -> Formula:
        free, found = list(range(slots)), []
        for column in range(slots):
            for slot in free:
                cases = [Case(e, slot) for e in range(self._scores.experts)]
                try:
                    formulas = [self._read(rows[:, column], case) for case in cases]
                except Undetermined:
                    continue
                free.remove(slot)
                found += formulas
                break
            else:
                raise Undetermined(f"{source.node} does not take one value of each slot")
        return _all_one(found, source)


def _all_one(formulas: list[Formula], source: Source) -> Formula:
    """Return the formula that all of them are."""
    if any(not formulas[0].close(formula) for formula in formulas[1:]):
        raise Undetermined(f"what {source.node} makes of other experts")
    return formulas[0]


def _is_lowest(formula: Formula) -> bool:
    """Whether a softmax makes 0 of it."""
    if only(formula, ((LOWEST, 1),)):
        return True
    low = np.ravel(formula.coefficient(()))[0] <= LITTLE
    return bool(low) and set(formula.terms) <= {(), ((LOGIT, 1),)}
