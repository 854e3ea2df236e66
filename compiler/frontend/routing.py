"""What weight an expert has, by cases: it is in slot 0, in slot 1, ..., or not chosen at all.

In each case every mask, comparison and table of the file has a value that is known, so nothing here
knows how a file writes the choice, and nothing is settled by samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesaic.compiler.frontend.atoms import (
    CLOSE,
    LOGIT,
    LOWEST,
    SIGMOID,
    Case,
    Undetermined,
    as_number,
    atom,
    is_zero,
    one_of_all,
)
from moesaic.compiler.frontend.choices import (
    Compare,
    Counted,
    Lookup,
    Masked,
    TopKIndices,
    TopKValues,
)
from moesaic.compiler.frontend.comparisons import Comparisons
from moesaic.compiler.frontend.formula import Formula, constant
from moesaic.compiler.frontend.leaves import factors
from moesaic.compiler.frontend.scores import Scores, find_corrections, slot_of
from moesaic.compiler.frontend.signs import Signs
from moesaic.compiler.frontend.totals import Totals
from moesaic.compiler.frontend.views import (
    Arena,
    BatchProduct,
    NotRecognised,
    Product,
    RowSum,
    Softmax,
    Source,
    Sum,
    Times,
    Unary,
    View,
)
from moesaic.compiler.ir import IndexArray


class Routing:
    """Reads gate weights.

    Attributes
    ----------
    scores
        The choice of experts that they follow from.
    corrections
        [E], what is added to sigmoids for the choice alone, if anything.
    """

    def __init__(self, arena: Arena, gates: View) -> None:
        """Find the choice that [T, n] gate weights depend on."""
        self._arena = arena
        self._known: dict[tuple[bytes, Case], Formula | Undetermined] = {}
        self.scores = Scores(arena, gates)
        self._signs = Signs(self.scores.slots / self.scores.experts)
        self._comparisons = Comparisons(arena, self.scores, self._signs, self.read)
        self._totals = Totals(self.scores, self.read)
        self.reciprocal_of = self._signs.reciprocal_of
        self.corrections = find_corrections(self.scores, self.read)

    @property
    def node(self) -> str:
        """What messages call the choice."""
        return self.scores.node

    @property
    def notes(self) -> set[tuple[str, str]]:
        """What a reader should know."""
        return self._comparisons.notes

    def read(self, view: View, case: Case) -> Formula:
        """Return what [T] values are in a case.

        Raises
        ------
        Undetermined
            That depends on more than the expert of the case.
        NotRecognised
            They are nothing that a choice of experts is made of.
        """
        key = view.digest(), case
        if key not in self._known:
            try:
                self._known[key] = self._read(view, case)
            except Undetermined as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, Undetermined):
            raise found
        return found

    def product(self, parts: Sequence[View], case: Case) -> Formula:
        """Return the product of values; one that is 0 settles it."""
        total, waiting = constant(np.ones(1)), None
        for part in parts:
            try:
                total = total * self.read(part, case)
            except Undetermined as error:
                waiting = error
        if waiting is not None and not is_zero(total):
            raise waiting
        return total

    def _read(self, view: View, case: Case) -> Formula:
        if view.is_constant:
            return constant(np.array([one_of_all(view.offset, "a constant")]))
        source = self._arena.source_of(view)
        if (logit := self._logit(view, case.expert)) is not None:
            return logit
        scale = one_of_all(view.scale, f"the scale of {source.node}")
        offset = one_of_all(view.offset, f"a constant added to {source.node}")
        return self._source(source, view.plain, case).affine(np.array([scale]), np.array([offset]))

    def _logit(self, view: View, expert: int) -> Formula | None:
        logits = self.scores.logits
        own = logits[:, expert]
        if not np.array_equal(view.ids, own.ids):
            if (logits.ids == view.ids[:, None]).all(axis=0).any():
                raise Undetermined(f"another expert's score than that of expert {expert}")
            return None
        with np.errstate(all="ignore"):
            slope = one_of_all(view.scale / own.scale, "the scale of a score")
        offset = view.offset - slope * own.offset
        if np.ptp(offset) > CLOSE * max(1.0, float(np.abs(own.offset).max())):
            raise NotRecognised("a constant added to a score differs between tokens")
        offset = np.where(np.abs(offset) <= CLOSE * np.abs(own.offset), 0.0, offset)
        return atom(LOGIT).affine(np.array([slope]), offset[:1])

    def _source(self, source: Source, view: View, case: Case) -> Formula:
        """Read plain elements of one source."""
        inside, local = self._arena.inside, view.ids - source.start
        match source:
            case Sum():
                total = Formula({})
                for term in source.terms:
                    total = total + self.read(inside(view, term), case)
                return total
            case Times():
                return self.product([inside(view, p) for p in (source.left, source.right)], case)
            case BatchProduct():
                total = Formula({})
                for pair in factors(source, local):
                    total = total + self.product(pair, case)
                return total
            case Unary(function="sigmoid" | "reciprocal" | "relu"):
                return self._unary(source, self.read(inside(view, source.argument), case))
            case Compare():
                return constant(np.array([self._comparisons.settle(source, view, case)]))
            case Masked():
                mask = as_number(self.read(inside(view, source.mask), case))
                if mask == 0:
                    return atom(LOWEST)
                if mask == 1:
                    return self.read(inside(view, source.value), case)
                raise NotRecognised(f"{source.node} masks by something else than the choice")
            case TopKIndices():
                if case.slot is None or not self.scores.is_slot(source.values, local, case.slot):
                    raise Undetermined(f"what else {source.node} chose")
                return constant(np.array([float(case.expert)]))
            case TopKValues():
                return self._top(source, local, case)
            case Lookup():
                index = self.read(source.index[local], case)  # else undetermined
                assert as_number(index) == case.expert
                return self.read(source.at(case.expert)[local], case)
            case RowSum():
                return self._totals.sum(source, source.rows[local], case)
            case Softmax():
                return self._totals.softmax(source, local, case)
            case Counted():
                raise NotRecognised(
                    f"experts take so many tokens each, which {source.node} counts, and drop the "
                    "others: raise the capacity to the number of tokens, so that none is dropped"
                )
            case Product():
                raise NotRecognised(
                    f"{source.node} is no score of the router at {self.scores.node}"
                )
            case _:
                what = source.function if isinstance(source, Unary) else "it"
                raise NotRecognised(
                    f"gate weights are computed by {source.node} ({what}): only a softmax or "
                    "sigmoids, with or without division by the sum of the chosen, are supported"
                )

    def _unary(self, source: Unary, argument: Formula) -> Formula:
        """Apply a sigmoid, a reciprocal or a relu."""
        if source.function == "reciprocal":
            return self._signs.reciprocal(argument, source)
        if source.function == "sigmoid":
            if set(argument.terms) != {((LOGIT, 1),)}:
                raise NotRecognised(f"{source.node} is no sigmoid of the router's scores")
            self.scores.set_slope(argument, source)
            return atom(SIGMOID)
        sign = self._signs.sign(argument)
        if sign is None:
            raise NotRecognised(f"{source.node} clips gate weights")
        return argument if sign == 1 else constant(np.zeros(1))

    def _top(self, source: TopKValues, local: IndexArray, case: Case) -> Formula:
        """Read the largest of scores, or of masks."""
        rows, scores = local // source.k, self.scores
        if source is scores.choice or (scores.choice and scores.are_same(source, rows)):
            if case.slot is None or not scores.is_slot(source, local, case.slot):
                raise Undetermined(f"the score of what else {source.node} chose")
            return self.read(scores.chosen_from()[:, case.expert], case)
        # The largest of masks: whether any slot holds the expert.
        values = source.rows[rows]
        found = [self.read(values[:, c], case) for c in range(values.shape[1])]
        numbers = [as_number(formula) for formula in found]
        if None in numbers or (source.k > 1 and not source.ordered):
            raise NotRecognised(f"{source.node} does not choose from the router's scores")
        ordered = sorted(numbers, reverse=True)  # type: ignore[type-var]
        return constant(np.array([ordered[slot_of(source, local)]]))
