"""The choice of experts that gate weights follow from, and the logits that it is made by."""

from __future__ import annotations

import numpy as np

from moesaic.compiler.frontend.atoms import (
    CLOSE,
    LOGIT,
    PROBABILITY,
    SIGMOID,
    Case,
    Read,
    one_of_all,
)
from moesaic.compiler.frontend.choices import TopKValues
from moesaic.compiler.frontend.formula import Formula
from moesaic.compiler.frontend.leaves import Leaves
from moesaic.compiler.frontend.views import (
    Arena,
    NotRecognised,
    Product,
    Softmax,
    Source,
    Unary,
    View,
)
from moesaic.compiler.ir import FloatArray, IndexArray


class Scores:
    """What a router chooses experts by.

    Attributes
    ----------
    choice
        Among the scores of each token, the choice of most experts; None where all are taken.
    rows
        [T], its row of each token.
    logits
        [T, E].
    slope
        Softmaxes and sigmoids are of this times the logits; None where there are none yet.
    """

    def __init__(self, arena: Arena, gates: View) -> None:
        """Find the choice that [T, n] gate weights depend on."""
        self._arena = arena
        self.slope: float | None = None
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

    @property
    def slots(self) -> int:
        """How many experts a token has."""
        return self.choice.k if self.choice is not None else self.experts

    @property
    def node(self) -> str:
        """What messages call the choice."""
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

    def set_slope(self, formula: Formula, source: Source) -> None:
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

    def chosen_from(self) -> View:
        """Return the scores [T, E] that experts are chosen from; there must be a choice."""
        assert self.choice is not None
        return self.choice.rows[self.rows]

    def are_same(self, source: TopKValues, rows: IndexArray) -> bool:
        """Whether a choice is made from the scores that the experts are chosen from."""
        if source.rows.shape[1] != self.experts:
            return False
        return source.rows[rows].same(self.chosen_from())

    def is_slot(self, source: TopKValues, local: IndexArray, slot: int) -> bool:
        """Whether elements of a choice are those of a slot."""
        if self.choice is None:
            raise NotRecognised(f"{source.node} does not choose from the router's scores")
        if source is not self.choice:
            if not self.are_same(source, local // source.k):
                raise NotRecognised(
                    f"{source.node} and {self.choice.node} must choose from the same scores"
                )
            if not (source.ordered and self.choice.ordered):
                raise NotRecognised(f"{source.node} and {self.choice.node} must be sorted")
        elif not np.array_equal(local // source.k, self.rows):
            raise NotRecognised(f"{source.node}: the choice of another token is used")
        return slot_of(source, local) == slot


def slot_of(source: TopKValues, local: IndexArray) -> int:
    """Return the slot that elements of a choice are of, the same for all tokens."""
    return int(one_of_all(local % source.k, f"the slot of {source.node}"))


def find_corrections(scores: Scores, read: Read) -> FloatArray | None:
    """Check that the most likely experts are chosen; return [E], what is added to sigmoids for the
    choice alone, if anything."""
    if scores.choice is None:
        return None
    rows = scores.chosen_from()
    found = [read(rows[:, e], Case(e, None)) for e in range(scores.experts)]
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
            f"{scores.node} must choose the largest of the router's scores, of their softmax or of "
            "their sigmoids"
        )
    if np.allclose(added, added[0], rtol=CLOSE, atol=0.0):
        return None
    if kind != SIGMOID:
        raise NotRecognised(
            f"{scores.node} chooses by scores to which it adds a constant of each expert: only "
            "sigmoids can be corrected for the choice, else the constant belongs in front of the "
            "softmax"
        )
    return (added / slopes).astype(np.float32)
