"""Recognising activations by their formulas, however they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moesaic.compiler.frontend.algebra import Algebra, as_view
from moesaic.compiler.frontend.formula import CLOSE, ODD, Formula, Monomial, Reader
from moesaic.compiler.frontend.read import LinearReading, read_linear
from moesaic.compiler.frontend.views import (
    NONE,
    Arena,
    NotRecognised,
    Product,
    RealArray,
    Times,
    View,
)
from moesaic.spec.activations import ACTIVATIONS

SAMPLES = np.linspace(-32.0, 32.0, 513)
"""For messages only."""
TANH_SLOPE, TANH_CUBIC = (2 / np.pi) ** 0.5, 0.044715
"""GELU's tanh form: ``x / 2 * (1 + tanh(TANH_SLOPE * (x + TANH_CUBIC * x**3)))``."""

_T: Monomial = ((0, 1),)
_CUBE: Monomial = ((0, 3),)
_Terms = dict[tuple[int, int], float]


@dataclass(frozen=True)
class _Form:
    """An activation of x as ``sum of coefficient * x**i * f(slope * x + cubic * x**3 + offset)**j``
    over ``terms[i, j]``."""

    activation: str
    function: str
    terms: _Terms
    slope: float = 1.0
    cubic: float = 0.0
    offset: float = 0.0


_HALVES: _Terms = {(1, 0): 0.5, (1, 1): 0.5}
_FORMS = (
    _Form("gelu", "gelu", {(0, 1): 1.0}),
    _Form("gelu", "erf", _HALVES, 0.5**0.5),
    _Form("gelu_tanh", "gelu_tanh", {(0, 1): 1.0}),
    _Form("gelu_tanh", "tanh", _HALVES, TANH_SLOPE, TANH_SLOPE * TANH_CUBIC),
    _Form("silu", "tanh", _HALVES, 0.5),
    _Form("quick_gelu", "tanh", _HALVES, 0.851),
    _Form("relu", "relu", {(0, 1): 1.0}),
    _Form("squared_relu", "relu", {(0, 2): 1.0}),
    _Form("squared_relu", "relu", {(1, 1): 1.0}),
    _Form("hard_swish", "unit", {(1, 1): 1.0}, 1 / 6, offset=0.5),
)
"""A sigmoid is written with tanh, as :class:`Reader` does; ``unit`` clips to 0 .. 1."""


@dataclass
class ActivationReading:
    """``activation(linear) * factor``; no ``factor`` is 1."""

    activation: str
    linear: LinearReading
    factor: LinearReading | None = None


def read_activation(arena: Arena, view: View) -> ActivationReading:
    """Read [R, C] values as an activation of a linear layer, perhaps times another linear layer.

    The formula is compared, not samples: it equals the activation for every x. Its coefficients may
    differ by `CLOSE`, because files round them to float32. In the result of GELU that makes at most
    2 * CLOSE * abs(x).

    Raises
    ------
    NotRecognised
        It is not elementwise arithmetic on one linear layer, or no activation that is known.
    """
    source = arena.source_of(view)
    if isinstance(source, Times):
        parts = [arena.inside(view.plain, part) for part in (source.left, source.right)]
        for active, factor in (parts, parts[::-1], *_regrouped(arena, parts)):
            if _is_other(arena, active, factor):
                if view.offset.any():
                    raise NotRecognised(f"a constant is added to {source.node}")
                if (active.scale < 0).all():
                    active, factor = active.affine(-1.0, 0.0), factor.affine(-1.0, 0.0)
                reading = read_activation(arena, active)
                if reading.factor is not None:
                    raise NotRecognised(f"{source.node} multiplies three linear layers")
                reading.factor = read_linear(arena, factor.affine(view.scale, 0.0))
                return reading
    reader = Reader(arena)
    formula = reader.read(view)
    if set(formula.terms) <= {(), _T}:
        raise NotRecognised(
            f"{source.node} follows a linear layer without an activation between them; merge the "
            "two"
        )
    for number in sorted({atom for monomial in formula.terms for atom, _ in monomial} - {0}):
        function, argument = reader.atoms[number]
        for form in _FORMS:
            if form.function == function:
                slope = _slope(form, argument)
                if slope is None:
                    continue
                for sign in (1.0, -1.0) if function in ODD else (1.0,):
                    if _matches(form, number, formula, argument, sign * slope, sign):
                        linear = read_linear(arena, _argument(reader, sign * slope))
                        return ActivationReading(form.activation, linear)
    nearest, deviation = _nearest(reader, formula)
    raise NotRecognised(
        f"the activation at {source.node} is none of {', '.join(ACTIVATIONS)}: it differs from "
        f"{nearest} by up to {deviation:.2g}; train the model with one of them"
    )


def _regrouped(arena: Arena, parts: list[View]) -> Iterator[tuple[View, View]]:
    """Yield ``(a * c, b)`` for ``(a * b) * c``, whichever of the three stand together."""
    algebra = Algebra(arena)
    for pair, alone in (parts, parts[::-1]):
        inner = arena.sources_of(pair)
        if len(inner) != 1 or not isinstance(inner[0], Times) or not (pair.ids != NONE).all():
            continue
        if pair.offset.any():
            continue
        two = [arena.inside(pair.plain, part) for part in (inner[0].left, inner[0].right)]
        for one, factor in (two, two[::-1]):
            if isinstance(arena.sources_of(factor)[0], Product):
                algebra.node, algebra.name = inner[0].node, inner[0].name
                active = as_view(algebra.times(one, alone)).affine(pair.scale, 0.0)
                yield active, factor


def _is_other(arena: Arena, active: View, factor: View) -> bool:
    """Say whether `factor` is a linear layer, and `active` a function of another one."""
    linear = arena.source_of(factor)
    if not isinstance(linear, Product) or isinstance(arena.source_of(active), Product):
        return False
    reader = Reader(arena)
    reader.read(active)
    return bool(reader.leaves) and not np.array_equal(reader.leaves[0].ids, factor.ids)


def _slope(form: _Form, argument: Formula) -> RealArray | None:
    """Return a [C] such that x = a * t, if `argument` is what the form has of x."""
    slope = argument.coefficient(_T)
    if not np.all(slope) or not set(argument.terms) <= {(), _T, _CUBE}:
        return None
    slope = np.asarray(slope / form.slope)
    cube = argument.coefficient(_CUBE)
    if not np.allclose(cube, form.cubic * slope**3, rtol=CLOSE * 3, atol=0.0):
        return None
    return slope


def _matches(
    form: _Form,
    number: int,
    formula: Formula,
    argument: Formula,
    slope: RealArray,
    sign: float,
) -> bool:
    """Say whether a formula is the form of ``slope * t``, `number` being its only atom: ``sign``
    times what the form has of it."""

    def monomial(power: int, atom_power: int) -> Monomial:
        parts = ((0, power), (number, atom_power))
        return tuple(part for part in parts if part[1])

    wanted = {monomial(i, j): value * slope**i * sign**j for (i, j), value in form.terms.items()}
    # Rounded biases leave constants where there should be none: in the argument and beside, and
    # from x beside its products with the atom.
    spare = {(), *(monomial(0, j) for _, j in form.terms)} - set(wanted)
    return (
        set(formula.terms) <= set(wanted) | spare
        and all(
            np.allclose(formula.coefficient(one), value, rtol=CLOSE, atol=0.0)
            for one, value in wanted.items()
        )
        and all((np.abs(formula.coefficient(one)) <= CLOSE).all() for one in spare)
        and bool((np.abs(argument.coefficient(()) - form.offset) <= CLOSE).all())
    )


def _argument(reader: Reader, slope: RealArray) -> View:
    """Return x as a view: one that the file has, so that its weights stay as they are, if any."""
    for leaf in reader.leaves:
        for factor in (1.0, 1.0 / leaf.scale[:1], 2.0):
            if np.allclose(leaf.scale[:1] * factor, slope, rtol=4 * CLOSE, atol=0.0):
                return leaf.affine(np.broadcast_to(factor, leaf.scale[:1].shape), 0.0)
    return reader.leaves[0].plain.affine(slope, slope * reader.centre)


def _nearest(reader: Reader, formula: Formula) -> tuple[str, float]:
    """Return the activation with the least of the largest differences, x being any of the
    leaves."""
    found = {name: np.inf for name in ACTIVATIONS}
    for leaf in reader.leaves:
        for factor in (1.0, 1.0 / leaf.scale[:1], 2.0):
            t = SAMPLES[:, None] / (leaf.scale[:1] * factor)
            computed = reader.evaluate(formula, t)
            for name, activation in ACTIVATIONS.items():
                difference = np.abs(computed - activation.function(SAMPLES)[:, None])
                if np.isfinite(difference).all():
                    found[name] = min(found[name], float(difference.max()))
    return min(found.items(), key=lambda item: item[1])
