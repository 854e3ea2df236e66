"""Recognising GELU by its formula, however it is written."""

from __future__ import annotations

import numpy as np

from moesaic.compiler.frontend.formula import CLOSE, Formula, Monomial, Reader, gelu, gelu_tanh
from moesaic.compiler.frontend.operators import Note
from moesaic.compiler.frontend.operators.composite import TANH_NOTE
from moesaic.compiler.frontend.read import LinearReading, read_linear
from moesaic.compiler.frontend.views import Arena, NotRecognised, RealArray, View

SAMPLES = np.linspace(-32.0, 32.0, 513)
"""For messages only: every pre-activation that the integers hold (18 bits, 12 of them fraction)."""
ROOT_HALF = 0.5**0.5
TANH_SLOPE, TANH_CUBIC = (2 / np.pi) ** 0.5, 0.044715
"""tanh form: ``x / 2 * (1 + tanh(TANH_SLOPE * (x + TANH_CUBIC * x**3)))``."""

_T: Monomial = ((0, 1),)
_CUBE: Monomial = ((0, 3),)


def read_activation(arena: Arena, view: View) -> tuple[LinearReading, Note | None]:
    """Read [R, C] values as GELU of a linear layer.

    Returns the linear layer and a note if GELU is written in its tanh approximation. The formula
    is compared, not samples: it equals GELU for every x. Its coefficients may differ by `CLOSE`,
    because files round them to float32. In the result that makes at most 2 * CLOSE * abs(x): below
    7e-5 for the largest pre-activation that the integers hold, 32, whose step is 2.4e-4.

    Raises
    ------
    NotRecognised
        It is not elementwise arithmetic on one linear layer, or not GELU.
    """
    node = arena.source_of(view).node
    reader = Reader(arena)
    formula = reader.read(view)
    if set(formula.terms) <= {(), _T}:
        raise NotRecognised(
            f"{node} follows a linear layer without an activation between them; merge the two"
        )
    for number in {atom for monomial in formula.terms for atom, _ in monomial} - {0}:
        function, argument = reader.atoms[number]
        slope = _slope(function, argument)
        if slope is not None and _is_gelu(function, number, formula, argument, slope):
            note = (TANH_NOTE, node) if function in ("tanh", "gelu_tanh") else None
            return read_linear(arena, _argument(reader, slope)), note
    raise NotRecognised(
        f"the activation at {node} must be GELU, but differs from it by up to "
        f"{_deviation(reader, formula):.2g}: train the model with GELU"
    )


def _slope(function: str, argument: Formula) -> RealArray | None:
    """Return a [C] such that x = a * t, if `function` of `argument` is what GELU has of x."""
    slope = argument.coefficient(_T)
    if not np.all(slope) or not set(argument.terms) <= {(), _T, _CUBE}:
        return None
    cube = argument.coefficient(_CUBE)
    if function == "tanh":
        slope = slope / TANH_SLOPE
        if not np.allclose(cube, TANH_SLOPE * TANH_CUBIC * slope**3, rtol=CLOSE * 3, atol=0.0):
            return None
    elif cube.any():
        return None
    elif function == "erf":
        slope = slope / ROOT_HALF
    elif function not in ("gelu", "gelu_tanh"):
        return None
    return np.asarray(slope)


def _is_gelu(
    function: str, number: int, formula: Formula, argument: Formula, slope: RealArray
) -> bool:
    """Say whether a formula is GELU of ``slope * t``, `function` being its only atom."""
    atom: Monomial = ((number, 1),)
    if function in ("gelu", "gelu_tanh"):
        wanted: dict[Monomial, RealArray] = {atom: np.ones(())}
    else:
        wanted = {_T: slope / 2, ((0, 1), (number, 1)): slope / 2}
    # Rounded biases leave constants where there should be none: in the argument and beside.
    spare = [formula.coefficient(()), argument.coefficient(())]
    if function not in ("gelu", "gelu_tanh"):
        spare.append(formula.coefficient(atom))
    return (
        set(formula.terms) <= {*wanted, (), atom}
        and all(
            np.allclose(formula.coefficient(monomial), value, rtol=CLOSE, atol=0.0)
            for monomial, value in wanted.items()
        )
        and all((np.abs(value) <= CLOSE).all() for value in spare)
    )


def _argument(reader: Reader, slope: RealArray) -> View:
    """Return x as a view: one that the file has, so that its weights stay as they are, if any."""
    for leaf in reader.leaves:
        for factor in (1.0, 1.0 / leaf.scale[:1], 2.0):
            if np.allclose(leaf.scale[:1] * factor, slope, rtol=4 * CLOSE, atol=0.0):
                return leaf.affine(np.broadcast_to(factor, leaf.scale[:1].shape), 0.0)
    return reader.leaves[0].plain.affine(slope, slope * reader.centre)


def _deviation(reader: Reader, formula: Formula) -> float:
    """Return the least of the largest differences from GELU, x being any of the leaves."""
    found = [np.inf]
    for leaf in reader.leaves:
        for factor in (1.0, 1.0 / leaf.scale[:1], 2.0):
            t = SAMPLES[:, None] / (leaf.scale[:1] * factor)
            computed = reader.evaluate(formula, t)
            for form in (gelu, gelu_tanh):
                difference = np.abs(computed - form(SAMPLES)[:, None])
                if np.isfinite(difference).all():
                    found.append(float(difference.max()))
    return min(found)
