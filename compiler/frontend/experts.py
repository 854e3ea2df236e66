"""Recognising experts and their router."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesaic.compiler import ir
from moesaic.compiler.frontend.activation import read_activation
from moesaic.compiler.frontend.given import find_step_and_zero
from moesaic.compiler.frontend.read import (
    NormalisedLinear,
    State,
    make_linear,
    read_linear,
    read_normalised,
    share_norm,
)
from moesaic.compiler.frontend.views import Arena, NotRecognised, RealArray, View
from moesaic.compiler.ir import IndexArray


def read_router(arena: Arena, state: State, logits: View) -> NormalisedLinear:
    """Read [tokens, experts] logits as a linear layer of the normalised residual."""
    try:
        router = read_normalised(arena, state, read_linear(arena, logits))
    except NotRecognised as error:
        raise NotRecognised(f"the router: {error}") from error
    return in_order(router, state)


def in_order(
    reading: NormalisedLinear, state: State, tokens: IndexArray | None = None
) -> NormalisedLinear:
    """Refuse a layer that reads other rows than those of ``tokens``, or of all in their order."""
    wanted = np.arange(state.view.shape[0]) if tokens is None else tokens
    if not np.array_equal(reading.tokens, wanted):
        raise NotRecognised(f"node {reading.name!r} takes the tokens in another order")
    return reading


@dataclass
class ExpertReading:
    """Two linear layers around an activation, and perhaps a third one that it is multiplied by; all
    arrays as in `ir`."""

    up: NormalisedLinear
    down: ir.Linear
    activation: str
    factor: NormalisedLinear | None = None

    @property
    def inner(self) -> list[NormalisedLinear]:
        """The linear layers of normalised rows."""
        return [self.up] if self.factor is None else [self.up, self.factor]

    def mlp(self, norm: ir.Norm, inner: list[ir.Linear], name: str) -> ir.Mlp:
        """The layer, `inner` being what :attr:`inner` has become."""
        factor = inner[1] if len(inner) > 1 else None
        return ir.Mlp(norm, inner[0], self.down, name, self.activation, factor)

    def scale(self, factor: float) -> None:
        """Multiply the result."""
        if factor != 1.0:
            weight, bias = (
                part.astype(np.float64) * factor for part in (self.down.weight, self.down.bias)
            )
            self.down = make_linear(weight, bias, self.down.name, self.down.given)

    def add(self, bias: RealArray) -> None:
        """Add [C] to the result."""
        self.down = make_linear(
            self.down.weight.astype(np.float64),
            self.down.bias + bias,
            self.down.name,
            replace(self.down.given, target=None),
        )


def read_expert(
    arena: Arena, state: State, view: View, tokens: IndexArray | None = None
) -> ExpertReading:
    """Read [tokens, channels] values as an MLP of the normalised residual, of all or some rows."""
    down = read_linear(arena, view)
    reading = read_activation(arena, down.inputs)
    inner = [
        in_order(read_normalised(arena, state, linear), state, tokens)
        for linear in (reading.linear, reading.factor)
        if linear is not None
    ]
    step, zero = find_step_and_zero(arena, down.inputs, "activations")
    given = replace(down.given, source=step, source_zero=zero)
    return ExpertReading(
        inner[0],
        make_linear(down.weight, down.bias, down.name, given),
        reading.activation,
        inner[1] if len(inner) > 1 else None,
    )


def make_moe(
    router: NormalisedLinear,
    experts: dict[int, ExpertReading],
    top_k: int,
    renormalise: bool,
    name: str,
) -> ir.Moe:
    """``experts`` by their numbers in the file, in the order of the router's scores."""
    inner = [reading for expert in experts.values() for reading in expert.inner]
    norm, (gate, *linears) = share_norm([router, *inner])
    mlps = []
    for e, expert in experts.items():
        taken, linears = linears[: len(expert.inner)], linears[len(expert.inner) :]
        mlps.append(expert.mlp(norm, taken, f"{name}.expert{e}"))
    return ir.Moe(norm, gate, top_k, renormalise, mlps, name)
