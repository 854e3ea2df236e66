"""Reading the result of a com.microsoft.MoE or QMoE node."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from moesaic.compiler import ir
from moesaic.compiler.frontend.choices import ExpertLinear, Experts, SwiGlu
from moesaic.compiler.frontend.experts import ExpertReading, in_order, make_moe, read_router
from moesaic.compiler.frontend.given import NO_INTEGERS
from moesaic.compiler.frontend.read import (
    LinearReading,
    Matrix,
    NormalisedLinear,
    State,
    as_matrix,
    make_linear,
    read_normalised,
)
from moesaic.compiler.frontend.views import Arena, NotRecognised, RealArray, View

ROUNDED = 1e-4
"""Share by which float32 may exceed a bound of what a LayerNorm gives."""


def read_node(arena: Arena, state: State, view: View) -> ir.Moe:
    """Read what a node adds to the residual stream.

    Among equal scores ONNX Runtime chooses the highest number, the hardware the lowest: experts
    are taken from the last to the first, so that both choose the same ones.
    """
    source = arena.source_of(view)
    assert isinstance(source, Experts)
    matrix = as_matrix(view, source, source.rows.shape[1])
    if matrix.offset.any():
        raise NotRecognised(f"a constant is added to the result of {source.node}")
    inputs = source.rows[matrix.rows]
    router = read_router(arena, state, source.logits[matrix.rows][:, ::-1])

    def inner(linear: ExpertLinear, name: str) -> NormalisedLinear:
        weight, bias = linear.weight.astype(np.float64), linear.bias.astype(np.float64)
        given = ir.Given(linear.codes)
        reading = LinearReading(inputs, weight, bias, name, source.node, given)
        found = in_order(read_normalised(arena, state, reading), state)
        if found.norm is not router.norm:
            raise NotRecognised(f"{source.node} and its router must read the same LayerNorm")
        return found

    numbers = range(len(source.up))
    names = [f"{source.name}.expert{e}" for e in numbers]
    ups = [inner(source.up[e], f"{names[e]}.fc1") for e in numbers]
    factors: list[NormalisedLinear | None] = [None for _ in numbers]
    if (swiglu := source.swiglu) is not None:
        others = [inner(swiglu.factors[e], f"{names[e]}.fc1") for e in numbers]
        _check_limit(swiglu.limit, ups, others, source.node)
        factors = [_take_beta(swiglu, other) for other in others]
        ups = [replace(x, weight=x.weight * swiglu.alpha, bias=x.bias * swiglu.alpha) for x in ups]
    experts = {}
    for e in reversed(numbers):
        down = _down(source.down[e], matrix, f"{names[e]}.fc2")
        experts[e] = ExpertReading(ups[e], down, source.activation, factors[e])
        codes = [down.given.codes, *(linear.given.codes for linear in experts[e].inner)]
        if source.quantised and any(part is None for part in codes):
            arena.notes.add((NO_INTEGERS, source.node))
    return make_moe(router, experts, source.top_k, source.renormalise, source.name)


def _down(linear: ExpertLinear, matrix: Matrix, name: str) -> ir.Linear:
    """Return the second layer of an expert, as the result of the node is taken."""
    weight = linear.weight[matrix.columns] * matrix.scale[:, None]
    codes = None if linear.codes is None else linear.codes[matrix.columns]
    return make_linear(weight, linear.bias[matrix.columns] * matrix.scale, name, ir.Given(codes))


def _take_beta(swiglu: SwiGlu, factor: NormalisedLinear) -> NormalisedLinear:
    """Return the factor of ``silu(alpha * g)``: ``g * sigmoid(alpha * g) * (l + beta)`` is
    ``silu(alpha * g) * (l + beta) / alpha``."""
    weight, bias = factor.weight / swiglu.alpha, (factor.bias + swiglu.beta) / swiglu.alpha
    return replace(factor, weight=weight, bias=bias)


def _check_limit(
    limit: float, gates: list[NormalisedLinear], factors: list[NormalisedLinear], node: str
) -> None:
    """Refuse a limit that could clip something: gates from above, factors from both sides."""
    if not math.isfinite(limit):
        return
    reach = max(*(_largest(x)[0] for x in gates), *(max(_largest(x)) for x in factors))
    if not reach * (1 + ROUNDED) < limit:
        bounded = math.isfinite(reach)
        raise NotRecognised(
            f"swiglu_limit {limit:g} of {node} may clip activations, "
            + (f"which may reach {reach:.4g}" if bounded else "as no LayerNorm bounds them")
            + ": export the model without a limit, or with a larger one"
        )


def _largest(linear: NormalisedLinear) -> tuple[float, float]:
    """Return bounds of what a layer of normalised rows gives, and of minus that.

    The rows have as many channels as the square of their length, at most, and their sum is 0.
    """
    if linear.norm.plain:
        return math.inf, math.inf
    weight: RealArray = linear.weight * linear.gamma
    centred = weight - weight.mean(1, keepdims=True)
    reach = np.linalg.norm(centred, axis=1) * math.sqrt(weight.shape[1])
    middle = linear.bias + linear.weight @ linear.beta
    return float((reach + middle).max()), float((reach - middle).max())
