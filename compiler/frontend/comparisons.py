"""What a comparison with a choice, a score or a threshold gives: 1 or 0, known in each case."""

from __future__ import annotations

import numpy as np

from moesaic.compiler.frontend.atoms import CLOSE, Case, Read, Undetermined, one_of_all
from moesaic.compiler.frontend.choices import Compare, TopKIndices, TopKValues
from moesaic.compiler.frontend.scores import Scores, slot_of
from moesaic.compiler.frontend.signs import Signs
from moesaic.compiler.frontend.views import Arena, NotRecognised, View

TIES = "experts of equal scores are chosen by number, where the file takes all of them"


class Comparisons:
    """Settles comparisons.

    Attributes
    ----------
    notes
        What a reader should know.
    """

    def __init__(self, arena: Arena, scores: Scores, signs: Signs, read: Read) -> None:
        self._arena, self._scores, self._signs, self._read = arena, scores, signs, read
        self.notes: set[tuple[str, str]] = set()

    def settle(self, source: Compare, view: View, case: Case) -> float:
        """Return whether a comparison holds: 1 or 0."""
        left, right = (self._arena.inside(view, part) for part in (source.left, source.right))
        for first, second, turned in ((left, right, False), (right, left, True)):
            if (found := self._against_number(source, first, second, case)) is not None:
                return found
            if (order := self._against_score(source, first, second, case)) is not None:
                wanted = {"equal": 0, "greater": -1 if turned else 1, "less": 1 if turned else -1}
                return float(order == wanted[source.relation])
        difference = self._read(left, case) + self._read(right, case).affine(-1.0, 0.0)
        sign = self._signs.sign(difference)
        if sign is None:
            raise NotRecognised(
                f"{source.node} compares gate weights with a threshold, so the number of experts "
                "of a token varies: choose a fixed number by TopK"
            )
        return float(sign == {"equal": 0, "greater": 1, "less": -1}[source.relation])

    def _against_number(
        self, source: Compare, index: View, number: View, case: Case
    ) -> float | None:
        """Settle whether a slot's expert is the one of some number."""
        found = self._arena.sources_of(index)
        if len(found) != 1 or not isinstance(found[0], TopKIndices) or not number.is_constant:
            return None
        if source.relation != "equal" or not index.is_plain:
            return None
        values, local = found[0].values, index.ids - found[0].start
        same = one_of_all(number.offset, f"the number in {source.node}") == case.expert
        own = case.slot is not None and self._scores.is_slot(values, local, case.slot)
        if case.slot is None and self._scores.choice is None:
            raise NotRecognised(f"{found[0].node} does not choose from the router's scores")
        if own:
            return float(same)
        if same:  # another slot does not hold the expert that this one holds, or none does
            self._scores.is_slot(values, local, 0)
            return 0.0
        raise Undetermined(f"what else {found[0].node} chose")

    def _against_score(self, source: Compare, score: View, limit: View, case: Case) -> int | None:
        """Return how the expert's score compares with that of a slot: 1, 0 or -1."""
        choice = self._scores.choice
        found = self._arena.sources_of(limit)
        if choice is None or len(found) != 1 or not isinstance(found[0], TopKValues):
            return None
        other = found[0]
        local = limit.ids - other.start
        own = self._scores.chosen_from()[:, case.expert]
        if not self._scores.are_same(other, local // other.k) or not score.plain.same(own.plain):
            return None
        column = slot_of(other, local)
        ratio = one_of_all(score.scale / own.scale, "a scale")
        shift = score.offset - ratio * own.offset
        if not (
            np.allclose(limit.scale, ratio, rtol=CLOSE)
            and np.allclose(limit.offset, shift, rtol=CLOSE, atol=CLOSE)
            and ratio > 0
            and other.ordered
            and choice.ordered
        ):
            return None
        if column >= choice.k:
            raise NotRecognised(
                f"{source.node} and {choice.node} choose different numbers of experts"
            )
        self.notes.add((TIES, source.node))
        return int(np.sign(column - (choice.k if case.slot is None else case.slot)))
