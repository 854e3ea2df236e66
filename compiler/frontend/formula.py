"""Elementwise arithmetic on one linear layer as a formula: a polynomial in t and functions of t.

Equal formulas are equal functions over all numbers, which no sampling can show. Every step is made
once for each distinct value, so that time grows with the nodes of a graph and not with its paths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moesaic.compiler.frontend.read import per_column
from moesaic.compiler.frontend.views import (
    Arena,
    NotRecognised,
    Product,
    RealArray,
    Sum,
    Times,
    Unary,
    View,
)
from moesaic.spec.activations import ACTIVATIONS

MOST_TERMS = 64
MOST_POWER = 12
MOST_DEPTH = 100
"""What activations need in any form stays far below; chains of squares do not."""
CLOSE = 1e-6
"""Relative difference of equal coefficients: constants of files are rounded to float32."""

Monomial = tuple[tuple[int, int], ...]
"""Pairs of an atom and its power, by atom. Atom 0 is t; () is a constant."""


FUNCTIONS: dict[str, Callable[[RealArray], RealArray]] = {
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "exp": np.exp,
    **{name: ACTIVATIONS[name].function for name in ("gelu", "gelu_tanh", "relu")},
    "reciprocal": lambda x: 1.0 / x,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "unit": lambda x: np.clip(x, 0.0, 1.0),
}
"""What atoms are; the sigmoid is written with tanh, ``unit`` clips to 0 .. 1."""


ODD = ("tanh", "erf")
"""Those of which f(-x) is -f(x)."""


@dataclass(frozen=True, eq=False)
class Formula:
    """A sum of monomials; coefficients [C], one for each column."""

    terms: dict[Monomial, RealArray]

    def affine(self, scale: RealArray | float, offset: RealArray | float) -> Formula:
        """Return ``scale * self + offset``."""
        scaled = {monomial: value * scale for monomial, value in self.terms.items()}
        return Formula(scaled) + Formula({(): np.asarray(offset, np.float64)})

    def __add__(self, other: Formula) -> Formula:
        terms = dict(self.terms)
        for monomial, value in other.terms.items():
            terms[monomial] = terms.get(monomial, 0.0) + value
        return _bounded({monomial: value for monomial, value in terms.items() if np.any(value)})

    def __mul__(self, other: Formula) -> Formula:
        terms: dict[Monomial, RealArray] = {}
        for left, first in self.terms.items():
            for right, second in other.terms.items():
                powers = dict(left)
                for atom, power in right:
                    powers[atom] = powers.get(atom, 0) + power
                monomial = tuple(sorted(powers.items()))
                terms[monomial] = terms.get(monomial, 0.0) + first * second
        return _bounded(terms)

    def coefficient(self, monomial: Monomial) -> RealArray:
        """Return a coefficient, zero where there is none."""
        return self.terms.get(monomial, np.zeros(()))

    def close(self, other: Formula) -> bool:
        """Say whether both have equal coefficients but for rounding."""
        return self.terms.keys() == other.terms.keys() and all(
            np.allclose(value, other.terms[monomial], rtol=CLOSE, atol=0.0)
            for monomial, value in self.terms.items()
        )


def _bounded(terms: dict[Monomial, RealArray]) -> Formula:
    powers = max((power for monomial in terms for _, power in monomial), default=0)
    if len(terms) > MOST_TERMS or powers > MOST_POWER:
        raise NotRecognised("it is no activation: its formula has too many terms or powers")
    return Formula(terms)


def constant(value: RealArray | float) -> Formula:
    """Return a formula without t."""
    return Formula({(): np.asarray(value, np.float64)})


class Reader:
    """Reads values [R, C] as formulas of one product's elements p, with t = p + centre.

    Attributes
    ----------
    leaves
        Every view of the product that the formula starts from.
    atoms
        Function and argument of each atom; the first is t itself.
    """

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.leaves: list[View] = []
        self.atoms: list[tuple[str, Formula]] = [("t", constant(0.0))]
        self.centre: RealArray = np.zeros(())
        self._known: dict[bytes, Formula] = {}
        self._depth = 0

    def read(self, view: View) -> Formula:
        """Return the formula of a view.

        Raises
        ------
        NotRecognised
            It is not elementwise, differs between rows, or is about several products.
        """
        key = view.digest()
        if key not in self._known:
            self._depth += 1
            if self._depth > MOST_DEPTH:
                raise NotRecognised("it is no activation: its formula is nested too deep")
            scale, offset = per_column(view.scale, "scale"), per_column(view.offset, "offset")
            source = self.arena.source_of(view)
            if isinstance(source, Product):
                self._known[key] = self._leaf(view, scale, offset)
            else:
                self._known[key] = self._source(view).affine(scale, offset)
            self._depth -= 1
        return self._known[key]

    def _leaf(self, view: View, scale: RealArray, offset: RealArray) -> Formula:
        if not self.leaves:
            self.centre = offset / scale
        elif not np.array_equal(view.ids, self.leaves[0].ids):
            node = self.arena.source_of(view).node
            raise NotRecognised(f"{node} combines several values, which activations do not")
        self.leaves.append(view)
        return Formula({((0, 1),): scale}).affine(1.0, offset - scale * self.centre)

    def _source(self, view: View) -> Formula:
        source, plain = self.arena.source_of(view), view.plain
        if isinstance(source, Sum):
            total = constant(0.0)
            for term in source.terms:
                total = total + self.read(self.arena.inside(plain, term))
            return total
        if isinstance(source, Times):
            left, right = (self.arena.inside(plain, part) for part in (source.left, source.right))
            return self.read(left) * self.read(right)
        if isinstance(source, Unary):
            return self._apply(
                source.function, self.read(self.arena.inside(plain, source.argument))
            )
        raise NotRecognised(f"{source.node} is not an activation of a linear layer")

    def _apply(self, function: str, argument: Formula) -> Formula:
        if function == "sigmoid":
            return self._apply("tanh", argument.affine(0.5, 0.0)).affine(0.5, 0.5)
        if function == "reciprocal" and (form := self._logistic(argument)) is not None:
            return form
        sign = 1.0
        if function in ODD:  # the argument's slope is made positive
            slope = np.ravel(argument.coefficient(((0, 1),)))[0]
            sign = -1.0 if slope < 0 else 1.0
            argument = argument.affine(sign, 0.0)
        return Formula({((self._atom(function, argument), 1),): np.asarray(sign)})

    def _logistic(self, argument: Formula) -> Formula | None:
        """Read ``1 / (a + b * exp(z))`` with positive a and b as a sigmoid."""
        if len(argument.terms) != 2 or () not in argument.terms:
            return None
        (monomial,) = set(argument.terms) - {()}
        a, b = argument.terms[()], argument.terms[monomial]
        if len(monomial) != 1 or monomial[0][1] != 1 or not ((a > 0).all() and (b > 0).all()):
            return None
        function, inner = self.atoms[monomial[0][0]]
        if function != "exp":
            return None
        return self._apply("sigmoid", inner.affine(-1.0, -np.log(b / a))).affine(1 / a, 0.0)

    def _atom(self, function: str, argument: Formula) -> int:
        for number, (other, known) in enumerate(self.atoms):
            if other == function and known.close(argument):
                return number
        self.atoms.append((function, argument))
        return len(self.atoms) - 1

    def evaluate(self, formula: Formula, t: RealArray) -> RealArray:
        """Return the values [samples, C] of a formula for [samples, C] values of t."""
        atoms = [t]
        with np.errstate(all="ignore"):
            for function, argument in self.atoms[1:]:  # arguments have lower atoms only
                atoms.append(FUNCTIONS[function](_value(argument, atoms)))
            return _value(formula, atoms)


def _value(formula: Formula, atoms: list[RealArray]) -> RealArray:
    result = np.zeros_like(atoms[0])
    for monomial, coefficient in formula.terms.items():
        product = np.broadcast_to(coefficient, result.shape)
        for atom, power in monomial:
            product = product * atoms[atom] ** power
        result = result + product
    return result
