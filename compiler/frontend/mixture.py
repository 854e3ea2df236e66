"""Taking a sum apart into experts and the weights that each has, however it is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from moesaic.compiler import ir
from moesaic.compiler.frontend.algebra import Algebra, as_view, stack_views
from moesaic.compiler.frontend.choices import (
    Compare,
    Counted,
    Lookup,
    Masked,
    TopKIndices,
    TopKValues,
)
from moesaic.compiler.frontend.experts import ExpertReading, make_moe, read_expert, read_router
from moesaic.compiler.frontend.formula import Formula
from moesaic.compiler.frontend.operators.choosing import compare
from moesaic.compiler.frontend.read import State, per_column
from moesaic.compiler.frontend.routing import (
    PROBABILITY,
    SHARE,
    TOTAL,
    Routing,
    Undetermined,
    as_number,
    factors,
    is_zero,
    only,
)
from moesaic.compiler.frontend.substitute import MIXED, Labels, Substitution
from moesaic.compiler.frontend.views import (
    NONE,
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

TINY = 1e-5
"""Largest constant beside the sum that chosen gate weights are divided by."""
PARTS = ("weight", "bias", "gamma", "beta")
MOST_PARTS = 1 << 12
"""Of one mixture: 64 experts in each of 64 slots."""


@dataclass
class Part:
    """Some gate weights times a value: [T] each, and [T, C] or constants."""

    gates: list[View]
    value: View


@dataclass
class _Group:
    """All parts with one value, whatever rows of it they take."""

    parts: list[Part] = field(default_factory=list)

    def formulas(self, routing: Routing, expert: int) -> list[Formula]:
        """Return the weight in each case: in slot 0, 1, ..., and where it is not chosen."""
        slots: list[int | None] = list(range(routing.slots)) if routing.choice else []
        found = []
        for slot in (*slots, None):
            total = Formula({})
            for part in self.parts:
                total = total + routing.product(part.gates, expert, slot)
            found.append(total)
        return found


def is_gate(arena: Arena, view: View) -> bool:
    """Say whether values are made of scores and choices alone."""
    return _holds(arena, view) == {True}


def is_weighted(arena: Arena, view: View) -> bool:
    """Say whether scores or choices are among what values are made of."""
    return True in _holds(arena, view)


def _holds(arena: Arena, view: View) -> set[bool]:
    """Return True for scores and choices, False for other values, at the leaves of a view."""
    found: set[bool] = set()
    waiting: list[View] = [view]
    seen: set[int] = set()
    while waiting:
        for source in arena.sources_of(waiting.pop()):
            if source.start in seen:
                continue
            seen.add(source.start)
            match source:
                case Sum():
                    waiting += source.terms
                case Times():
                    waiting += [source.left, source.right]
                case RowSum():
                    waiting.append(source.rows)
                case Unary():
                    waiting.append(source.argument)
                case Compare() | Counted() | Masked() | TopKIndices() | TopKValues() | Softmax():
                    found.add(True)
                case BatchProduct():
                    sides = [_holds(arena, part) for part in (source.left, source.right)]
                    found.add(all(side <= {True} for side in sides))
                case Lookup():
                    inner = _holds(arena, source.data)
                    found |= inner or {True}
                case _:
                    found.add(False)
    return found


class Splitter:
    """Takes the terms of a sum apart."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._algebra = Algebra(arena)
        self._assumed: dict[tuple[int, int], Substitution] = {}
        self._count = 0

    def split(self, view: View, gates: tuple[View, ...] = ()) -> Iterator[Part]:
        """Take [T, C] values apart.

        Raises
        ------
        NotRecognised
            They are no sum of experts times weights.
        """
        self._count += 1
        if self._count > 8 * MOST_PARTS:
            raise NotRecognised(f"a mixture has more than {MOST_PARTS} terms")
        if view.is_constant:
            yield Part(list(gates), view)
            return
        if (chosen := self._lookups(view)) is not None and not is_gate(self._arena, view):
            yield from self._assume(view, gates, chosen)
            return
        source = self._arena.source_of(view)
        if view.offset.any() and isinstance(source, Sum | RowSum | BatchProduct | Times):
            yield Part(list(gates), as_view(np.array(view.offset)))
            view = view.unshifted
        if isinstance(source, Sum):
            for term in source.terms:
                yield from self.split(self._arena.inside(view, term), gates)
        elif isinstance(source, RowSum):
            rows = source.rows[view.ids.reshape(-1) - source.start]
            for column in range(rows.shape[1]):
                part = rows[:, column].reshape(*view.shape).affine(view.scale, 0.0)
                yield from self.split(part, gates)
        elif isinstance(source, Times):
            left = self._arena.inside(view, source.left)
            right = self._arena.inside(view.plain, source.right)
            yield from self._times(source, left, right, gates)
        elif isinstance(source, BatchProduct) and _is_weighted_product(self._arena, source):
            yield from self._batch(source, view, gates)
        elif isinstance(source, Product) and is_weighted(self._arena, source.rows):
            yield from self._product(source, view, gates)
        elif not gates and is_gate(self._arena, view):
            raise NotRecognised(f"{source.node} adds gate weights")
        else:
            yield Part(list(gates), view)

    def _times(
        self, source: Source, left: View, right: View, gates: tuple[View, ...]
    ) -> Iterator[Part]:
        kinds = is_gate(self._arena, left), is_gate(self._arena, right)
        if kinds[0] == kinds[1]:
            raise NotRecognised(
                f"{source.node} must multiply the result of an expert by its gate weight"
            )
        gate, value = (left, right) if kinds[0] else (right, left)
        # What scales the weight by channel scales the result.
        scale = np.broadcast_to(1.0, gate.shape)
        if not (gate.scale == gate.scale[:, :1]).all():
            if gate.offset.any():
                raise NotRecognised(f"the weight at {source.node} differs between channels")
            scale, gate = gate.scale, gate.plain
        if not (gate.ids == gate.ids[:, :1]).all() or not (gate.offset == gate.offset[:, :1]).all():
            raise NotRecognised(f"the weight at {source.node} differs between channels")
        yield from self.split(value.affine(scale, 0.0), (*gates, gate[:, 0]))

    def _batch(self, source: BatchProduct, view: View, gates: tuple[View, ...]) -> Iterator[Part]:
        for first, right in factors(source, view.ids - source.start):
            left = first.affine(view.scale, 0.0)
            for constant, other in ((left, right), (right, left)):
                if constant.is_constant:
                    yield from self.split(other.affine(constant.offset, 0.0), gates)
                    break
            else:
                yield from self._times(source, left, right, gates)

    def _product(self, source: Product, view: View, gates: tuple[View, ...]) -> Iterator[Part]:
        """``(weight * hidden) @ W`` is ``weight * (hidden @ W)``, expert by expert."""
        width = source.weight.shape[0]
        element = view.ids - source.start
        rows, columns = element[:, 0] // width, element[0] % width
        if (element != rows[:, None] * width + columns).any():
            raise NotRecognised(f"the result of {source.node} is not used row by row")
        if view.offset.any():
            yield Part(list(gates), as_view(np.array(view.offset)))
        inputs, weight = source.rows[rows], source.weight[columns]
        if is_gate(self._arena, inputs):  # weights times a bias of each expert
            for k in range(inputs.shape[1]):
                bias = np.broadcast_to(weight[:, k].astype(np.float64), view.shape) * view.scale
                yield Part([*gates, inputs[:, k]], as_view(bias))
            return
        inner = self._arena.source_of(inputs)
        if not isinstance(inner, Times) or inputs.offset.any():
            raise NotRecognised(
                f"gate weights and results are mixed by {inner.node} in front of {source.node}"
            )
        sides = [self._arena.inside(inputs.plain, part) for part in (inner.left, inner.right)]
        kinds = [is_gate(self._arena, side) for side in sides]
        if kinds[0] == kinds[1]:
            raise NotRecognised(f"{inner.node} must multiply hidden values by gate weights")
        gate, hidden = sides if kinds[0] else sides[::-1]
        _, first, group = np.unique(gate.ids, axis=1, return_index=True, return_inverse=True)
        for number, k in enumerate(first):
            own = np.flatnonzero(group.reshape(-1) == number)
            if (
                not (gate[:, own].scale == gate[:, own].scale[:, :1]).all()
                or gate[:, own].offset.any()
            ):
                raise NotRecognised(f"the weight at {inner.node} differs between hidden values")
            self._algebra.node, self._algebra.name = source.node, source.name
            values = hidden[:, own].affine(inputs.scale[:, own], 0.0)
            part = self._algebra.product(values, weight[:, own])
            yield from self.split(part.affine(view.scale, 0.0), (*gates, gate[:, k]))

    # -- weights that were looked up by the number of an expert ---------------------------------

    def _lookups(self, view: View) -> TopKIndices | None:
        """Return what chose the experts whose weights a view has looked up."""
        waiting: list[View] = [view]
        seen: set[int] = set()
        while waiting:
            for source in self._arena.sources_of(waiting.pop()):
                if source.start in seen:
                    continue
                seen.add(source.start)
                match source:
                    case Sum():
                        waiting += source.terms
                    case Times():
                        waiting += [source.left, source.right]
                    case RowSum() | Product():
                        waiting.append(source.rows)
                    case Unary():
                        waiting.append(source.argument)
                    case BatchProduct():
                        waiting += [source.left, source.right]
                    case Lookup() if not is_gate(self._arena, view_of(source)) or (
                        source.data.is_constant
                    ):
                        (found,) = self._arena.sources_of(source.index)
                        assert isinstance(found, TopKIndices)
                        return found
                    case _:
                        pass
        return None

    def _assume(self, view: View, gates: tuple[View, ...], chosen: TopKIndices) -> Iterator[Part]:
        """Take each expert for the one that was looked up."""
        source = self._arena.sources_of(view)[0]
        if isinstance(source, Times) and len(self._arena.sources_of(view)) == 1:
            sides = [self._arena.inside(view.plain, p) for p in (source.left, source.right)]
            if any(is_gate(self._arena, side) for side in sides) and not view.offset.any():
                left = self._arena.inside(view, source.left)
                yield from self._times(source, left, sides[1], gates)
                return
        if isinstance(source, RowSum | Sum | BatchProduct) and self._labels(view, chosen) is None:
            yield from self._apart(source, view, gates)
            return
        index = self._labels(view, chosen)
        if index is None:
            raise NotRecognised(
                f"{source.node} mixes what was looked up for several chosen experts"
            )
        for expert in range(chosen.values.rows.shape[1]):
            key = chosen.start, expert
            if key not in self._assumed:
                self._assumed[key] = self._assumption(chosen, expert)
            value = as_view(self._assumed[key].of(view))
            self._algebra.node, self._algebra.name = chosen.node, chosen.name
            number = as_view(np.full(index.shape, float(expert)))
            hit = compare(self._algebra, "equal", index, number)
            yield from self.split(value, (*gates, hit))

    def _apart(self, source: Source, view: View, gates: tuple[View, ...]) -> Iterator[Part]:
        """Go into a sum over slots."""
        if view.offset.any():
            yield Part(list(gates), as_view(np.array(view.offset)))
            view = view.unshifted
        if isinstance(source, RowSum):
            rows = source.rows[view.ids.reshape(-1) - source.start]
            for column in range(rows.shape[1]):
                part = rows[:, column].reshape(*view.shape).affine(view.scale, 0.0)
                yield from self.split(part, gates)
        elif isinstance(source, Sum):
            for term in source.terms:
                yield from self.split(self._arena.inside(view, term), gates)
        elif isinstance(source, BatchProduct):
            yield from self._batch(source, view, gates)

    def _labels(self, view: View, chosen: TopKIndices) -> View | None:
        """Return the number [T] that each row goes by; None if a row goes by several."""

        def own(source: Source) -> np.ndarray | None:
            if isinstance(source, Lookup) and self._arena.sources_of(source.index) == [chosen]:
                return source.index.ids
            return None

        labels = Labels(self._arena, chosen.start, own).of(view)
        highest = labels.max(axis=1)
        others = (labels != highest[:, None]) & (labels != NONE)
        if others.any() or (labels == MIXED).any() or (highest == NONE).any():
            return None
        return View(highest, np.ones(highest.shape), np.zeros(highest.shape))

    def _assumption(self, chosen: TopKIndices, expert: int) -> Substitution:
        def replace(source: Source) -> View | None:
            if isinstance(source, Lookup) and self._arena.sources_of(source.index) == [chosen]:
                return source.at(expert)
            return None

        return Substitution(self._arena, chosen.start, replace)


def view_of(source: Source) -> View:
    """Return some element of a source, as good as any for what it is made of."""
    return View(np.array([source.start]), np.ones(1), np.zeros(1))


def _is_weighted_product(arena: Arena, source: BatchProduct) -> bool:
    return is_weighted(arena, source.left) or is_weighted(arena, source.right)


def is_mixture(arena: Arena, term: View) -> bool:
    """Say whether a term of the residual stream is, or holds, an expert times its weight."""
    source = arena.source_of(term)
    if isinstance(source, BatchProduct):
        return _is_weighted_product(arena, source)
    if isinstance(source, Product):
        return is_weighted(arena, source.rows)
    return is_weighted(arena, term) or isinstance(source, Times)


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
    router = read_router(arena, state, routing.logits)
    if routing.slope is not None and routing.slope != 1.0:
        router.weight, router.bias = router.weight * routing.slope, router.bias * routing.slope
        router.given = ir.Given()
    count = routing.experts
    if sorted(readings) != list(range(count)):
        missing = next((e for e in range(count) if e not in readings), "?")
        raise NotRecognised(
            f"the router at node {router.name!r} scores {count} experts but the graph holds "
            f"{len(readings)} (expert {missing} is missing): export the model with all experts, "
            "tracing may drop those that the sample did not use"
        )
    settled = {e: _settle(routing, weights[e], e) for e in range(count)}
    _add_biases(routing, biases, weights, readings)
    _, renormalise, epsilon = settled[0]
    for e, (factor, other, more) in settled.items():
        if other != renormalise or not np.isclose(more, epsilon, rtol=1e-6, atol=0.0):
            raise NotRecognised(f"{routing.node} weighs expert {e} in another way than expert 0")
        readings[e].scale(factor)
    arena.notes |= routing.notes
    name = routing.choice.name if routing.choice is not None else router.name
    ordered = {e: readings[e] for e in range(count)}
    moe = make_moe(router, ordered, routing.slots, renormalise, name)
    moe.sum_epsilon = epsilon
    return moe


def _number(routing: Routing, group: _Group, guess: int) -> tuple[int, list[Formula]]:
    """Return which expert a group is, and its weight in each case."""
    error: NotRecognised | None = None
    for expert in sorted(range(routing.experts), key=lambda e: e != guess):
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


def _settle(routing: Routing, formulas: list[Formula], expert: int) -> tuple[float, bool, float]:
    """Return factor, whether chosen weights are divided by their sum, and what is added to that."""
    *slots, none = formulas
    if routing.choice is None:
        slots = [none]
    elif not is_zero(none):
        raise NotRecognised(f"expert {expert} of {routing.node} counts where it is not chosen")
    first = slots[0]
    if any(not first.close(other) for other in slots[1:]):
        raise NotRecognised(
            f"the weight of expert {expert} depends on its rank among those that {routing.node} "
            "chose"
        )
    if (factor := only(first, ((PROBABILITY, 1),))) is not None:
        return factor, False, 0.0
    if (factor := only(first, ((SHARE, 1),))) is not None:
        return factor, True, 0.0
    if routing.slots == 1 and (number := as_number(first)) is not None:
        return number, True, 0.0  # one expert, by its own weight
    total = PROBABILITY if routing.slots == 1 else TOTAL
    for monomial in first.terms:
        numbers = dict(monomial)
        inverse = next((n for n in numbers if routing.reciprocal_of(n) is not None), None)
        if numbers != {PROBABILITY: 1, inverse: 1} or inverse is None:
            continue
        factor = only(first, monomial)
        argument = routing.reciprocal_of(inverse)
        if factor is None or argument is None or not set(argument.terms) <= {((total, 1),), ()}:
            continue
        of_sum = float(np.ravel(argument.coefficient(((total, 1),)))[0])
        epsilon = float(np.ravel(argument.coefficient(()))[0]) / of_sum if of_sum > 0 else -1.0
        if not 0 <= epsilon <= TINY:
            raise NotRecognised(
                f"{epsilon:g} is added to the sum that the weights of {routing.node} are divided "
                f"by, at most {TINY:g} is supported"
            )
        return factor / of_sum, True, epsilon
    raise NotRecognised(
        f"the weights of the experts that {routing.node} chose must be their softmax, as it is or "
        "divided by its sum over the chosen, times a number"
    )


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
