"""Reading a sum as a mixture of experts: which expert each value is, and by what weight."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from moesaic.compiler import ir
from moesaic.compiler.frontend.algebra import stack_views
from moesaic.compiler.frontend.atoms import Case, Undetermined, is_zero
from moesaic.compiler.frontend.experts import ExpertReading, make_moe, read_expert, read_router
from moesaic.compiler.frontend.formula import Formula
from moesaic.compiler.frontend.read import State, per_column
from moesaic.compiler.frontend.routing import Routing
from moesaic.compiler.frontend.splitting import Part, Splitter
from moesaic.compiler.frontend.views import (
    Arena,
    NotRecognised,
    Product,
    View,
)
from moesaic.compiler.frontend.weights import settle

PARTS = ("weight", "bias", "gamma", "beta")


@dataclass
class _Group:
    """All parts with one value, whatever rows of it they take."""

    parts: list[Part] = field(default_factory=list)

    def formulas(self, routing: Routing, expert: int) -> list[Formula]:
        """Return the weight in each case: in slot 0, 1, ..., and where it is not chosen."""
        slots: list[int | None] = list(range(routing.scores.slots)) if routing.scores.choice else []
        found = []
        for slot in (*slots, None):
            total = Formula({})
            for part in self.parts:
                total = total + routing.product(part.gates, Case(expert, slot))
            found.append(total)
        return found


def _value_key(arena: Arena, part: Part) -> bytes:
    """Equal for values that differ in their rows only."""
    view = part.value
    source = arena.source_of(view)
    digest = hashlib.blake2b(repr(source.start).encode(), digest_size=16)
    if isinstance(source, Product):
        columns = (view.ids[0] - source.start) % source.weight.shape[0]
        arrays = [columns, view.scale[0], view.offset[0]]
    else:
        arrays = [view.ids, view.scale, view.offset]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def read_mixture(arena: Arena, state: State, terms: list[View]) -> ir.Moe:
    """Read a sum of [T, C] terms as a mixture of experts."""
    groups: dict[bytes, _Group] = {}
    biases: list[Part] = []
    splitter = Splitter(arena)
    for term in terms:
        for part in splitter.split(term):
            if part.value.is_constant:
                biases.append(part)
            else:
                groups.setdefault(_value_key(arena, part), _Group()).parts.append(part)
    if not groups:
        node = next((arena.source_of(g).node for part in biases for g in part.gates), "a sum")
        raise NotRecognised(f"{node} chooses, as a router does, but weighs no experts")
    without = next((g for g in groups.values() if any(not p.gates for p in g.parts)), None)
    if without is not None:
        node = arena.source_of(without.parts[0].value).node
        raise NotRecognised(
            f"{node} is added to the experts without a gate weight: it must be a layer of its own"
        )
    gates = [gate for group in groups.values() for part in group.parts for gate in part.gates]
    routing = Routing(arena, stack_views(gates, axis=1))
    found: dict[int, _Group] = {}
    weights: dict[int, list[Formula]] = {}
    readings: dict[int, ExpertReading] = {}
    for group in groups.values():
        expert, formulas = _number(routing, group, len(found))
        if expert not in found:
            found[expert], weights[expert] = group, formulas
            readings[expert] = _read(arena, state, group)
        else:
            again = _read(arena, state, group)
            if not _same(readings[expert], again):
                raise NotRecognised(f"expert {expert} of {routing.node} stands there twice")
            weights[expert] = [a + b for a, b in zip(weights[expert], formulas, strict=True)]
    scores = routing.scores
    router = read_router(arena, state, scores.logits)
    if scores.slope is not None and scores.slope != 1.0:
        router.weight = router.weight * scores.slope
        router.bias = router.bias * scores.slope
        router.given = ir.Given()
    count = scores.experts
    if sorted(readings) != list(range(count)):
        missing = next((e for e in range(count) if e not in readings), "?")
        raise NotRecognised(
            f"the router at node {router.name!r} scores {count} experts but the graph holds "
            f"{len(readings)} (expert {missing} is missing): export the model with all experts, "
            "tracing may drop those that the sample did not use"
        )
    settled = {e: settle(routing, weights[e], e) for e in range(count)}
    _add_biases(routing, biases, weights, readings)
    _, kind, epsilon = settled[0]
    for e, (factor, other, more) in settled.items():
        if other != kind or not np.isclose(more, epsilon, rtol=1e-6, atol=0.0):
            raise NotRecognised(f"{routing.node} weighs expert {e} in another way than expert 0")
        readings[e].scale(factor)
    arena.notes |= routing.notes
    name = scores.choice.name if scores.choice is not None else router.name
    ordered = {e: readings[e] for e in range(count)}
    moe = make_moe(router, ordered, scores.slots, kind.renormalise, name)
    moe.sigmoid, moe.sum_epsilon = kind.sigmoid, epsilon
    if routing.corrections is not None and not kind.sigmoid:
        raise NotRecognised(
            f"{routing.node} chooses by corrected sigmoids, but the weights are no sigmoids"
        )
    moe.corrections = routing.corrections
    return moe


def _number(routing: Routing, group: _Group, guess: int) -> tuple[int, list[Formula]]:
    """Return which expert a group is, and its weight in each case."""
    error: NotRecognised | None = None
    for expert in sorted(range(routing.scores.experts), key=lambda e: e != guess):
        try:
            formulas = group.formulas(routing, expert)
        except Undetermined as reason:
            error = error or reason
            continue
        if any(not is_zero(formula) for formula in formulas):
            return expert, formulas
    raise NotRecognised(
        f"the weights of an expert do not follow from {routing.node}"
        + (f": they depend on {error}" if error else "")
    )


def _read(arena: Arena, state: State, group: _Group) -> ExpertReading:
    """Read the expert of a group; all its parts must be the same one."""
    first = read_expert(arena, state, group.parts[0].value)
    seen = {group.parts[0].value.digest()}
    for part in group.parts[1:]:
        key = part.value.digest()
        if key not in seen:
            seen.add(key)
            if not _same(first, read_expert(arena, state, part.value)):
                raise NotRecognised("parts of one expert differ")
    return first


def _same(one: ExpertReading, other: ExpertReading) -> bool:
    if one.activation != other.activation or len(one.inner) != len(other.inner):
        return False
    pairs = [(one.down.weight, other.down.weight), (one.down.bias, other.down.bias)]
    for mine, its in zip(one.inner, other.inner, strict=True):
        if mine.norm is not its.norm:
            return False
        pairs += [(getattr(mine, part), getattr(its, part)) for part in PARTS]
    return all(np.array_equal(a, b) for a, b in pairs)


def _add_biases(
    routing: Routing,
    biases: list[Part],
    weights: dict[int, list[Formula]],
    readings: dict[int, ExpertReading],
) -> None:
    """Take weights times constants into the experts' biases."""
    if any(not part.gates and part.value.offset.any() for part in biases):
        raise NotRecognised(f"a constant is added to the experts at {routing.node}")
    groups: dict[bytes, _Group] = {}
    for part in biases:
        if part.gates:
            groups.setdefault(part.value.offset.tobytes(), _Group()).parts.append(part)
    for group in groups.values():
        by_gate: dict[bytes, _Group] = {}
        for part in group.parts:
            key = b"".join(gate.digest() for gate in part.gates)
            by_gate.setdefault(key, _Group()).parts.append(part)
        found: dict[int, list[Formula]] = {}
        for own in by_gate.values():
            expert, formulas = _number(routing, own, len(found))
            before = found.get(expert)
            found[expert] = (
                [a + b for a, b in zip(before, formulas, strict=True)] if before else formulas
            )
        value = per_column(group.parts[0].value.offset, "a bias")
        for expert, formulas in found.items():
            reading = readings[expert]
            scale = _ratio(weights[expert], formulas)
            if scale is None:
                raise NotRecognised(
                    f"a constant is added to expert {expert} of {routing.node} with another weight"
                )
            reading.add(value * scale)


def _ratio(weights: list[Formula], formulas: list[Formula]) -> float | None:
    """Return the number that formulas are of others, if there is one."""
    for monomial, value in weights[0].terms.items() if weights else ():
        if not np.any(value):
            continue
        other = formulas[0].coefficient(monomial)
        scale = float(np.ravel(other)[0] / np.ravel(value)[0])
        scaled = [weight.affine(scale, 0.0) + Formula({}) for weight in weights]
        pairs = zip(scaled, (formula + Formula({}) for formula in formulas), strict=True)
        return scale if all(a.close(b) for a, b in pairs) else None
    return None
