"""What weight an expert has, by cases: it is in slot 0, in slot 1, ..., or not chosen at all.

In each case every mask, comparison and table of the file has a value that is known: 0, 1, the
expert's own score. What is left is a formula of few things, and equal formulas are equal for all
numbers. So nothing here knows how a file writes the choice, and nothing is settled by samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesaic.compiler.frontend.choices import (
    Compare,
    Counted,
    Lookup,
    Masked,
    TopKIndices,
    TopKValues,
)
from moesaic.compiler.frontend.formula import Formula, Monomial, constant
from moesaic.compiler.frontend.leaves import Leaves, factors
from moesaic.compiler.frontend.operators.choosing import LITTLE
from moesaic.compiler.frontend.views import (
    Arena,
    BatchProduct,
    NotRecognised,
    Product,
    RealArray,
    RowSum,
    Softmax,
    Source,
    Sum,
    Times,
    Unary,
    View,
)
from moesaic.compiler.ir import FloatArray, IndexArray

LOGIT, PROBABILITY, SHARE, TOTAL, SIGMOID, SIGMOIDS, LOWEST = range(7)
"""Atoms: the expert's logit, its softmax among all, its softmax among the chosen, the sum of the
chosen experts' softmax among all, the sigmoid of its logit, the sum of the chosen experts'
sigmoids, and what a softmax makes 0 of."""
POSITIVE = (PROBABILITY, SHARE, TOTAL, SIGMOID, SIGMOIDS)
SUMS = {PROBABILITY: TOTAL, SIGMOID: SIGMOIDS}
"""Weights that can be divided by their sum over the chosen experts, which is an atom too."""
CLOSE = 1e-6
"""Relative difference of equal constants."""
TIES = "experts of equal scores are chosen by number, where the file takes all of them"


class Undetermined(NotRecognised):
    """A value depends on what another slot holds, or on another expert."""


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


def _one(array: np.ndarray, what: str) -> float:
    """Return the number that all tokens have."""
    first = array.flat[0]
    if not (array == first).all():
        raise NotRecognised(f"{what} differs between tokens")
    return first  # type: ignore[no-any-return]


class Routing:
    """The choice of experts that some gate weights follow from.

    Attributes
    ----------
    choice
        Among the scores of each token, the choice of most experts; None where all are taken.
    rows
        [T], its row of each token.
    logits
        [T, E].
    slope
        Softmaxes are of this times the logits.
    corrections
        [E], what is added to sigmoids for the choice alone, if anything.
    notes
        What a reader should know.
    """

    def __init__(self, arena: Arena, gates: View) -> None:
        """Find the choice that [T, n] gate weights depend on."""
        self._arena = arena
        self.notes: set[tuple[str, str]] = set()
        self.slope: float | None = None
        self._known: dict[tuple[bytes, int, int | None], Formula | Undetermined] = {}
        self._known_each: dict[bytes, tuple[Formula, Formula | None]] = {}
        self._reciprocals: list[Formula] = []
        found = Leaves(arena)
        found.walk(gates)
        self.choice, self.rows = found.choice()
        if self.choice is not None:
            self.logits = self._logits(self.choice.rows[self.rows])
        elif found.softmaxes:
            source, rows = found.softmaxes[0]
            self.logits = source.rows[rows]
        else:
            raise NotRecognised(
                f"the gate weights come from {found.node}: only a softmax of a linear router, or a "
                "choice from one or from sigmoids, is supported"
            )
        self.experts = self.logits.shape[1]
        self.corrections: FloatArray | None = None
        if self.choice is not None:
            self._check_scores()

    @property
    def slots(self) -> int:
        """How many experts a token has."""
        return self.choice.k if self.choice is not None else self.experts

    @property
    def node(self) -> str:
        """What messages call it."""
        return self.choice.node if self.choice is not None else "the router's softmax"

    def _logits(self, scores: View) -> View:
        source = self._arena.source_of(scores)
        if isinstance(source, Product):
            return scores
        if isinstance(source, Unary) and source.function == "sigmoid":
            logits = self._arena.inside(scores.plain, source.argument)
            if isinstance(self._arena.source_of(logits), Product):
                return logits
        if not isinstance(source, Softmax):
            raise NotRecognised(
                f"{self.node} chooses from {source.node}: only the scores of a linear router, "
                "their softmax or their sigmoids are supported"
            )
        width = source.rows.shape[1]
        local = scores.ids - source.start
        rows, columns = local[:, 0] // width, local[0] % width
        if (local != rows[:, None] * width + columns).any() or not np.array_equal(
            np.sort(columns), np.arange(width)
        ):
            raise NotRecognised(f"{self.node} must choose from all scores of {source.node}")
        return source.rows[rows][:, columns]

    def _check_scores(self) -> None:
        """Check that the most likely experts are chosen."""
        assert self.choice is not None
        scores = self.choice.rows[self.rows]
        found = [self.read(scores[:, e], e, None) for e in range(self.experts)]
        kinds = (LOGIT, SIGMOID, PROBABILITY)
        kind = next((k for k in kinds if ((k, 1),) in found[0].terms), PROBABILITY)
        slopes = np.array([np.ravel(one.coefficient(((kind, 1),)))[0] for one in found])
        added = np.array([np.ravel(one.coefficient(()))[0] for one in found])
        if (
            any(not set(one.terms) <= {((kind, 1),), ()} for one in found)
            or not (slopes > 0).all()
            or not np.allclose(slopes, slopes[0], rtol=CLOSE, atol=0.0)
        ):
            raise NotRecognised(
                f"{self.node} must choose the largest of the router's scores, of their softmax or "
                "of their sigmoids"
            )
        if np.allclose(added, added[0], rtol=CLOSE, atol=0.0):
            return
        if kind != SIGMOID:
            raise NotRecognised(
                f"{self.node} chooses by scores to which it adds a constant of each expert: only "
                "sigmoids can be corrected for the choice, else the constant belongs in front of "
                "the softmax"
            )
        self.corrections = (added / slopes).astype(np.float32)

    def read(self, view: View, expert: int, slot: int | None) -> Formula:
        """Return what [T] values are for an expert that is in a slot, or in none.

        Raises
        ------
        Undetermined
            That depends on more than this expert.
        NotRecognised
            They are nothing that a choice of experts is made of.
        """
        key = view.digest(), expert, slot
        if key not in self._known:
            try:
                self._known[key] = self._read(view, expert, slot)
            except Undetermined as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, Undetermined):
            raise found
        return found

    def _read(self, view: View, expert: int, slot: int | None) -> Formula:
        if view.is_constant:
            return constant(np.array([_one(view.offset, "a constant")]))
        source = self._arena.source_of(view)
        if (logit := self._logit(view, expert)) is not None:
            return logit
        scale = _one(view.scale, f"the scale of {source.node}")
        offset = _one(view.offset, f"a constant added to {source.node}")
        return self._source(source, view.plain, expert, slot).affine(
            np.array([scale]), np.array([offset])
        )

    def _logit(self, view: View, expert: int) -> Formula | None:
        own = self.logits[:, expert]
        if not np.array_equal(view.ids, own.ids):
            if (self.logits.ids == view.ids[:, None]).all(axis=0).any():
                raise Undetermined(f"another expert's score than that of expert {expert}")
            return None
        with np.errstate(all="ignore"):
            slope = _one(view.scale / own.scale, "the scale of a score")
        offset = view.offset - slope * own.offset
        if np.ptp(offset) > CLOSE * max(1.0, float(np.abs(own.offset).max())):
            raise NotRecognised("a constant added to a score differs between tokens")
        offset = np.where(np.abs(offset) <= CLOSE * np.abs(own.offset), 0.0, offset)
        return atom(LOGIT).affine(np.array([slope]), offset[:1])

    def _source(self, source: Source, view: View, expert: int, slot: int | None) -> Formula:
        arena, local = self._arena, view.ids - source.start
        match source:
            case Sum():
                total = Formula({})
                for term in source.terms:
                    total = total + self.read(arena.inside(view, term), expert, slot)
                return total
            case Times():
                parts = [arena.inside(view, part) for part in (source.left, source.right)]
                return self.product(parts, expert, slot)
            case Unary(function="sigmoid"):
                return self._sigmoid(
                    self.read(arena.inside(view, source.argument), expert, slot), source
                )
            case Unary(function="reciprocal"):
                return self._reciprocal(
                    self.read(arena.inside(view, source.argument), expert, slot), source
                )
            case Unary(function="relu"):
                argument = self.read(arena.inside(view, source.argument), expert, slot)
                sign = self._sign(argument)
                if sign is None:
                    raise NotRecognised(f"{source.node} clips gate weights")
                return argument if sign == 1 else constant(np.zeros(1))
            case Compare():
                left, right = (arena.inside(view, p) for p in (source.left, source.right))
                return constant(np.array([self._compare(source, left, right, expert, slot)]))
            case Masked():
                mask = as_number(self.read(arena.inside(view, source.mask), expert, slot))
                if mask == 0:
                    return atom(LOWEST)
                if mask == 1:
                    return self.read(arena.inside(view, source.value), expert, slot)
                raise NotRecognised(f"{source.node} masks by something else than the choice")
            case TopKIndices():
                if slot is None or not self._is_slot(source.values, local, slot):
                    raise Undetermined(f"what else {source.node} chose")
                return constant(np.array([float(expert)]))
            case TopKValues():
                return self._top(source, local, expert, slot)
            case Lookup():
                index = self.read(source.index[local], expert, slot)  # else undetermined
                assert as_number(index) == expert
                return self.read(source.at(expert)[local], expert, slot)
            case RowSum():
                return self._row_sum(source, source.rows[local], expert, slot)
            case BatchProduct():
                total = Formula({})
                for pair in factors(source, local):
                    total = total + self.product(pair, expert, slot)
                return total
            case Counted():
                raise NotRecognised(
                    f"experts take so many tokens each, which {source.node} counts, and drop the "
                    "others: raise the capacity to the number of tokens, so that none is dropped"
                )
            case Softmax():
                return self._softmax(source, local, expert, slot)
            case Product():
                raise NotRecognised(f"{source.node} is no score of the router at {self.node}")
            case _:
                what = source.function if isinstance(source, Unary) else "it"
                raise NotRecognised(
                    f"gate weights are computed by {source.node} ({what}): only a softmax or "
                    "sigmoids, with or without division by the sum of the chosen, are supported"
                )

    def product(self, parts: Sequence[View], expert: int, slot: int | None) -> Formula:
        """Return the product of values; one that is 0 settles it."""
        total, waiting = constant(np.ones(1)), None
        for part in parts:
            try:
                total = total * self.read(part, expert, slot)
            except Undetermined as error:
                waiting = error
        if waiting is not None and not is_zero(total):
            raise waiting
        return total

    def _sigmoid(self, argument: Formula, source: Source) -> Formula:
        if set(argument.terms) != {((LOGIT, 1),)}:
            raise NotRecognised(f"{source.node} is no sigmoid of the router's scores")
        self._set_slope(argument, source)
        return atom(SIGMOID)

    def _reciprocal(self, argument: Formula, source: Source) -> Formula:
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

    # -- choices -------------------------------------------------------------------------------

    def _same_scores(self, source: TopKValues, rows: IndexArray) -> bool:
        """Whether a choice is made from the scores that the experts are chosen from."""
        assert self.choice is not None
        if source.rows.shape[1] != self.experts:
            return False
        return source.rows[rows].same(self.choice.rows[self.rows])

    def _column(self, source: TopKValues, local: IndexArray) -> int:
        return int(_one(local % source.k, f"the slot of {source.node}"))

    def _is_slot(self, source: TopKValues, local: IndexArray, slot: int) -> bool:
        """Whether elements of a choice are those of a slot."""
        if self.choice is None:
            raise NotRecognised(f"{source.node} does not choose from the router's scores")
        if source is not self.choice:
            if not self._same_scores(source, local // source.k):
                raise NotRecognised(
                    f"{source.node} and {self.choice.node} must choose from the same scores"
                )
            if not (source.ordered and self.choice.ordered):
                raise NotRecognised(f"{source.node} and {self.choice.node} must be sorted")
        elif not np.array_equal(local // source.k, self.rows):
            raise NotRecognised(f"{source.node}: the choice of another token is used")
        return self._column(source, local) == slot

    def _top(self, source: TopKValues, local: IndexArray, expert: int, slot: int | None) -> Formula:
        rows = local // source.k
        if source is self.choice or (self.choice and self._same_scores(source, rows)):
            if slot is None or not self._is_slot(source, local, slot):
                raise Undetermined(f"the score of what else {source.node} chose")
            assert self.choice is not None
            return self.read(self.choice.rows[self.rows][:, expert], expert, slot)
        # The largest of masks: whether any slot holds the expert.
        values = source.rows[rows]
        found = [self.read(values[:, c], expert, slot) for c in range(values.shape[1])]
        numbers = [as_number(formula) for formula in found]
        if None in numbers or (source.k > 1 and not source.ordered):
            raise NotRecognised(f"{source.node} does not choose from the router's scores")
        ordered = sorted(numbers, reverse=True)  # type: ignore[type-var]
        return constant(np.array([ordered[self._column(source, local)]]))

    def _compare(
        self, source: Compare, left: View, right: View, expert: int, slot: int | None
    ) -> float:
        """Return whether a comparison holds: 1 or 0."""
        for first, second, turned in ((left, right, False), (right, left, True)):
            if (found := self._against_number(source, first, second, expert, slot)) is not None:
                return found
            if (order := self._against_score(source, first, second, expert, slot)) is not None:
                wanted = {"equal": 0, "greater": -1 if turned else 1, "less": 1 if turned else -1}
                return float(order == wanted[source.relation])
        difference = self.read(left, expert, slot) + self.read(right, expert, slot).affine(
            -1.0, 0.0
        )
        sign = self._sign(difference)
        if sign is None:
            raise NotRecognised(
                f"{source.node} compares gate weights with a threshold, so the number of experts "
                "of a token varies: choose a fixed number by TopK"
            )
        return float(sign == {"equal": 0, "greater": 1, "less": -1}[source.relation])

    def _against_number(
        self, source: Compare, index: View, number: View, expert: int, slot: int | None
    ) -> float | None:
        """Settle whether a slot's expert is the one of some number."""
        found = self._arena.sources_of(index)
        if len(found) != 1 or not isinstance(found[0], TopKIndices) or not number.is_constant:
            return None
        if source.relation != "equal" or not index.is_plain:
            return None
        same = _one(number.offset, f"the number in {source.node}") == expert
        own = slot is not None and self._is_slot(found[0].values, index.ids - found[0].start, slot)
        if slot is None and self.choice is None:
            raise NotRecognised(f"{found[0].node} does not choose from the router's scores")
        if own:
            return float(same)
        if same:  # another slot does not hold the expert that this one holds, or none does
            self._is_slot(found[0].values, index.ids - found[0].start, 0)
            return 0.0
        raise Undetermined(f"what else {found[0].node} chose")

    def _against_score(
        self, source: Compare, score: View, limit: View, expert: int, slot: int | None
    ) -> int | None:
        """Return how the expert's score compares with that of a slot: 1, 0 or -1."""
        found = self._arena.sources_of(limit)
        if self.choice is None or len(found) != 1 or not isinstance(found[0], TopKValues):
            return None
        other = found[0]
        local = limit.ids - other.start
        own = self.choice.rows[self.rows][:, expert]
        if not self._same_scores(other, local // other.k) or not score.plain.same(own.plain):
            return None
        column = self._column(other, local)
        expected = self.choice.rows[self.rows][:, expert]
        ratio = _one(score.scale / expected.scale, "a scale")
        shift = score.offset - ratio * expected.offset
        if not (
            np.allclose(limit.scale, ratio, rtol=CLOSE)
            and np.allclose(limit.offset, shift, rtol=CLOSE, atol=CLOSE)
            and ratio > 0
            and other.ordered
            and self.choice.ordered
        ):
            return None
        if column >= self.choice.k:
            raise NotRecognised(
                f"{source.node} and {self.node} choose different numbers of experts"
            )
        self.notes.add((TIES, source.node))
        place = self.choice.k if slot is None else slot
        return int(np.sign(column - place))

    def _sign(self, formula: Formula) -> int | None:
        """Return 1, 0 or -1 where that is the sign of a formula for all numbers."""
        if is_zero(formula):
            return 0
        floor = self.slots / self.experts  # the sum of the chosen is at least their share
        if set(formula.terms) == {((TOTAL, 1),), ()}:
            least = formula.coefficient(((TOTAL, 1),)) * floor + formula.coefficient(())
            if (formula.coefficient(((TOTAL, 1),)) > 0).all() and (least > 0).all():
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
        return number in POSITIVE or (argument is not None and self._sign(argument) == 1)

    # -- over several experts ------------------------------------------------------------------

    def _row_sum(self, source: Source, rows: View, expert: int, slot: int | None) -> Formula:
        columns = [rows[:, c] for c in range(rows.shape[1])]
        try:
            total = Formula({})
            for column in columns:
                total = total + self.read(column, expert, slot)
            return total
        except Undetermined as error:
            first = error
        try:
            chosen, other = self._each(rows, source)
        except Undetermined:
            raise first from None
        count = self.slots
        if other is not None and not is_zero(other):
            if not other.close(chosen):
                raise Undetermined(f"experts that are not chosen, at {source.node}")
            count = self.experts
        every = count == self.experts
        total = Formula({})
        for monomial, value in chosen.terms.items():
            if monomial == ():
                total = total + constant(value * count)
            elif monomial == ((PROBABILITY, 1),):
                sum_of = constant(np.ones(1)) if every else atom(TOTAL)
                total = total + sum_of.affine(value, 0.0)
            elif monomial == ((SIGMOID, 1),) and self.choice is not None and count == self.slots:
                total = total + atom(SIGMOIDS).affine(value, 0.0)
            elif monomial == ((SHARE, 1),) and (other is None or is_zero(other)):
                total = total + constant(value)
            elif np.any(value):
                raise Undetermined(f"a sum at {source.node} of other things than weights")
        return total

    def _each(self, rows: View, source: Source) -> tuple[Formula, Formula | None]:
        """Read [T, S] values, one of each slot or one of each expert, by their own cases.

        Returns what each is for a chosen expert, and for one that is not; None for slots.
        """
        key = rows.digest()
        if key not in self._known_each:
            self._known_each[key] = self._find_each(rows, source)
        return self._known_each[key]

    def _find_each(self, rows: View, source: Source) -> tuple[Formula, Formula | None]:
        width = rows.shape[1]
        if self.choice is not None and width == self.choice.k:
            try:
                return self._of_slots(rows, source), None
            except Undetermined:
                pass
        if width != self.experts:
            raise Undetermined(
                f"{source.node}, which takes neither all experts nor all chosen ones"
            )
        chosen: list[Formula] = []
        others: list[Formula] = []
        for e in range(width):
            others.append(self.read(rows[:, e], e, None))
            if self.choice is not None:
                chosen += [self.read(rows[:, e], e, slot) for slot in range(self.choice.k)]
        chosen = chosen or others
        for found in (chosen, others):
            if any(not found[0].close(formula) for formula in found[1:]):
                raise Undetermined(f"what {source.node} makes of other experts")
        return chosen[0], others[0]

    def _of_slots(self, rows: View, source: Source) -> Formula:
        assert self.choice is not None
        free, found = list(range(self.choice.k)), []
        for column in range(rows.shape[1]):
            for slot in free:
                try:
                    formulas = [self.read(rows[:, column], e, slot) for e in range(self.experts)]
                except Undetermined:
                    continue
                free.remove(slot)
                found += formulas
                break
            else:
                raise Undetermined(f"{source.node} does not take one value of each slot")
        if any(not found[0].close(formula) for formula in found[1:]):
            raise Undetermined(f"what {source.node} makes of other experts")
        return found[0]

    def _softmax(
        self, source: Softmax, local: IndexArray, expert: int, slot: int | None
    ) -> Formula:
        width = source.rows.shape[1]
        rows = source.rows[local // width]
        column = int(_one(local % width, f"the column of {source.node}"))
        chosen, other = self._each(rows, source)
        self._set_slope(chosen, source)
        if other is None:
            own = slot is not None and not self._undetermined(rows[:, column], expert, slot)
            if not own:
                raise Undetermined(f"the softmax of what else {self.node} chose")
            return atom(SHARE)
        if column != expert:
            raise Undetermined(f"the softmax of another expert than {expert}")
        if other.close(chosen):
            return atom(PROBABILITY)
        if not self._is_lowest(other):
            raise NotRecognised(f"{source.node} does not mask experts that are not chosen")
        return constant(np.zeros(1)) if slot is None else atom(SHARE)

    def _undetermined(self, view: View, expert: int, slot: int) -> bool:
        try:
            self.read(view, expert, slot)
        except Undetermined:
            return True
        return False

    def _is_lowest(self, formula: Formula) -> bool:
        if only(formula, ((LOWEST, 1),)):
            return True
        low = np.ravel(formula.coefficient(()))[0] <= LITTLE
        return bool(low) and set(formula.terms) <= {(), ((LOGIT, 1),)}

    def _set_slope(self, formula: Formula, source: Source) -> None:
        """Check that a softmax or sigmoids are of logits, all scaled by one number; what is added
        cancels in a softmax."""
        slope = float(np.ravel(formula.coefficient(((LOGIT, 1),)))[0])
        if not set(formula.terms) <= {((LOGIT, 1),), ()} or slope <= 0:
            if ((PROBABILITY, 1),) in formula.terms:
                raise NotRecognised(f"{source.node} is a softmax of a softmax")
            raise NotRecognised(f"{source.node} is no softmax of the router's scores")
        if self.slope is None:
            self.slope = slope
        elif abs(slope - self.slope) > CLOSE * slope:
            raise NotRecognised(f"{source.node} scales the router's scores in another way")

    def reciprocal_of(self, number: int) -> Formula | None:
        """Return what an atom is the reciprocal of, if it is one."""
        place = number - LOWEST - 1
        return self._reciprocals[place] if place >= 0 else None

    @property
    def scale(self) -> RealArray:
        """What the router's linear layer is to be multiplied by."""
        return np.asarray(1.0 if self.slope is None else self.slope)
