"""Recognising mixtures of experts: the router, the gate weights and the experts themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesaic.compiler import ir
from moesaic.compiler.frontend.activation import read_activation
from moesaic.compiler.frontend.algebra import is_uniform
from moesaic.compiler.frontend.given import find_step
from moesaic.compiler.frontend.read import (
    LinearReading,
    NormalisedLinear,
    State,
    as_matrix,
    make_linear,
    read_linear,
    read_normalised,
    share_norm,
)
from moesaic.compiler.frontend.views import (
    Arena,
    Equal,
    Experts,
    NotRecognised,
    Product,
    RowSum,
    Scatter,
    Softmax,
    Times,
    TopKIndices,
    TopKValues,
    Unary,
    View,
)
from moesaic.compiler.ir import IndexArray

TINY = 1e-5
"""Largest constant beside the sum that chosen gate weights are divided by."""


@dataclass
class Gate:
    """The gate weight of one expert, for every token."""

    expert: int
    choice: TopKValues
    rows: IndexArray
    """Row of `choice` of each token."""
    renormalise: bool
    factor: float = 1.0
    """The weight is this times the softmax; it goes into the expert."""
    sum_epsilon: float = 0.0
    """Added to the sum by which the chosen values are divided."""


def _column(view: View) -> View:
    """Return the one column of [R, C] elements whose columns are all equal."""
    if not (view.ids == view.ids[:, :1]).all():
        raise NotRecognised("the weight of an expert differs between channels")
    if view.offset.any():
        raise NotRecognised("a constant is added to the weight of an expert")
    return view[:, 0].plain


def _factor(arena: Arena, view: View) -> tuple[float, View]:
    """Take the one factor off a view that is scaled by nothing else and not shifted."""
    factor = float(view.scale.flat[0])
    if view.offset.any() or not is_uniform(view.scale, factor):
        node = arena.source_of(view).node
        raise NotRecognised(
            f"something is added to the result of {node}, or it is scaled by token or expert: only "
            "a choice of experts by a softmax, times one number, is supported"
        )
    return factor, view.plain


def _slots(arena: Arena, indices: View) -> tuple[TopKValues, IndexArray, IndexArray]:
    """Read [R, k] expert numbers; returns the choice, its row for each row, slot per column."""
    source = arena.source_of(indices)
    if not isinstance(source, TopKIndices):
        raise NotRecognised(f"experts must be chosen by TopK, not by {source.node}")
    matrix = as_matrix(indices, source, source.values.k)
    if not matrix.is_plain or not _is_order(matrix.columns, source.values.k):
        raise NotRecognised(f"all indices of {source.node} must be used as they are")
    return source.values, matrix.rows, matrix.columns


def _is_order(columns: IndexArray, count: int) -> bool:
    """Say whether `columns` are 0 .. count - 1 in some order."""
    return np.array_equal(np.sort(columns), np.arange(count))


@dataclass
class _Weights:
    """How [R, k] gate weights follow from a choice."""

    factor: float
    chosen: View
    """[R, k] plain values of the choice, in the order of the weights."""
    renormalise: bool = False
    sum_epsilon: float = 0.0


def _read_weights(arena: Arena, weights: View, choice: TopKValues) -> _Weights:
    factor, plain = _factor(arena, weights)
    source = arena.source_of(plain)
    if source is choice:
        return _Weights(factor, plain)
    if isinstance(source, Softmax):  # of the chosen logits
        matrix = as_matrix(plain, source, source.rows.shape[1])
        inner = source.rows[matrix.rows]
        if arena.source_of(inner) is choice and source.rows.shape[1] == choice.k:
            if isinstance(arena.source_of(choice.rows), Softmax):
                raise NotRecognised(f"{source.node} is a softmax of a softmax")
            chosen = as_matrix(inner, choice, choice.k)
            if chosen.is_plain and _is_order(chosen.columns, choice.k):
                return _Weights(factor, inner[:, matrix.columns], renormalise=True)
    if isinstance(source, Times):
        operands = [arena.inside(plain, part) for part in (source.left, source.right)]
        for value, inverse in (operands, operands[::-1]):
            if (read := _read_division(arena, value, inverse, choice)) is not None:
                read.factor *= factor
                return read
    raise NotRecognised(f"{source.node}: gate weights do not follow from {choice.node}")


def _read_division(arena: Arena, value: View, inverse: View, choice: TopKValues) -> _Weights | None:
    """Read chosen softmax values, each divided by their sum."""
    division = arena.source_of(inverse)
    if arena.source_of(value) is not choice or not isinstance(division, Unary):
        return None
    if division.function != "reciprocal":
        return None
    if not isinstance(arena.source_of(choice.rows), Softmax):
        raise NotRecognised(
            f"{choice.node} must choose from a softmax where what it chose is divided by its sum"
        )
    (numerator, plain), (denominator, inverted) = (_factor(arena, v) for v in (value, inverse))
    total = arena.inside(inverted, division.argument)
    row_sum = arena.source_of(total)
    if not isinstance(row_sum, RowSum):
        return None
    summed = row_sum.rows[(total.ids - row_sum.start)[:, 0]]
    epsilon = float(total.offset.flat[0])
    if (
        arena.source_of(summed) is choice
        and np.array_equal(np.sort(summed.ids, 1), np.sort(plain.ids, 1))
        and (total.ids == total.ids[:, :1]).all()
        and 0 <= epsilon <= TINY
        and (total.offset == epsilon).all()
        and as_matrix(summed, choice, choice.k).is_plain
        and is_uniform(total.scale, 1.0)
    ):
        return _Weights(numerator * denominator, plain, renormalise=True, sum_epsilon=epsilon)
    return None


def _weighted(
    arena: Arena, expert: int, weights: View, slots: tuple[TopKValues, IndexArray, IndexArray]
) -> Gate:
    choice, rows, columns = slots
    read = _read_weights(arena, weights, choice)
    if not np.array_equal(read.chosen.ids, choice.start + rows[:, None] * choice.k + columns):
        raise NotRecognised(f"weights and indices of {choice.node} are paired in another order")
    return Gate(expert, choice, rows, read.renormalise, read.factor, read.sum_epsilon)


def _one_number(array: np.ndarray) -> int:
    if not (array == array.flat[0]).all():
        raise NotRecognised("one product serves several experts")
    return int(array.flat[0])


def _read_hits(
    arena: Arena, hits: View
) -> tuple[float, int, tuple[TopKValues, IndexArray, IndexArray]]:
    """Read [R, k] values that are a factor where a slot holds an expert, else 0.

    Returns the factor, the expert and `_slots`.
    """
    factor, plain = _factor(arena, hits)
    equal = arena.source_of(plain)
    if not isinstance(equal, Equal):
        raise NotRecognised(f"{equal.node} does not compare the numbers of chosen experts")
    expert = _one_number(equal.constant.reshape(-1)[plain.ids - equal.start])
    return factor, expert, _slots(arena, arena.inside(plain, equal.argument))


def _read_mask(
    arena: Arena, mask: View
) -> tuple[float, int, tuple[TopKValues, IndexArray, IndexArray]]:
    """Read [R] values that are a factor where an expert is chosen, else 0; as `_read_hits`."""
    factor, plain = _factor(arena, mask)
    source = arena.source_of(plain)
    local = plain.ids - source.start
    if isinstance(source, Scatter):
        ones = source.updates
        if not ones.is_constant or not (ones.offset == 1).all():
            raise NotRecognised(f"{source.node} must scatter ones")
        expert = _one_number(local % source.width)
        return factor, expert, _slots(arena, source.indices[local // source.width])
    if isinstance(source, RowSum):
        inner, expert, slots = _read_hits(arena, source.rows[local])
        return factor * inner, expert, slots
    raise NotRecognised(f"{source.node} is not a table of chosen experts")


def read_gate(arena: Arena, view: View) -> Gate:
    """Read [tokens, channels] values as the weight of one expert, without their scale."""
    column = _column(view)
    source = arena.source_of(column)
    local = column.ids - source.start
    if isinstance(source, Scatter):
        expert = _one_number(local % source.width)
        rows = local // source.width
        slots = _slots(arena, source.indices[rows])
        return _weighted(arena, expert, source.updates[rows], slots)
    if isinstance(source, RowSum):
        outer, products = _factor(arena, source.rows[local])
        times = arena.source_of(products)
        if not isinstance(times, Times):
            raise NotRecognised(f"{source.node} does not sum gate weights of chosen experts")
        operands = [arena.inside(products, part) for part in (times.left, times.right)]
        weights, hits = sorted(operands, key=lambda v: isinstance(arena.source_of(v), Equal))
        factor, expert, slots = _read_hits(arena, hits)
        gate = _weighted(arena, expert, weights, slots)
        gate.factor *= outer * factor
        return gate
    if isinstance(source, Times):
        return _masked(arena, [arena.inside(column, part) for part in (source.left, source.right)])
    raise NotRecognised(f"{source.node} is not a table of gate weights")


def _masked(arena: Arena, operands: list[View]) -> Gate:
    """Read ``softmax[:, e] * mask[:, e]``."""
    scores, mask = sorted(operands, key=lambda v: not isinstance(arena.source_of(v), Softmax))
    softmax = arena.source_of(scores)
    if not isinstance(softmax, Softmax):
        raise NotRecognised(f"{softmax.node}: a mask of experts must weight the router's softmax")
    of_mask, expert, (choice, rows, _) = _read_mask(arena, mask)
    of_scores, plain = _factor(arena, scores)
    if not np.array_equal(plain.ids, choice.rows[rows].ids[:, expert]):
        raise NotRecognised(f"{softmax.node} and {choice.node} must see the same scores")
    return Gate(expert, choice, rows, False, of_mask * of_scores)


def read_router(arena: Arena, state: State, gate: Gate) -> NormalisedLinear:
    """Read the linear layer whose logits a gate chooses from."""
    scores = gate.choice.rows[gate.rows]
    node = gate.choice.node
    source = arena.source_of(scores)
    if isinstance(source, Softmax):
        matrix = as_matrix(scores, source, source.rows.shape[1])
        if not matrix.is_plain or matrix.columns.size != source.rows.shape[1]:
            raise NotRecognised(f"{node} must choose from all scores of {source.node}")
        scores = source.rows[matrix.rows][:, matrix.columns]
    elif not gate.renormalise or not isinstance(source, Product):
        raise NotRecognised(f"{node} must choose from a softmax of the router's scores")
    return _router(arena, state, scores)


def _router(arena: Arena, state: State, logits: View) -> NormalisedLinear:
    try:
        router = read_normalised(arena, state, read_linear(arena, logits))
    except NotRecognised as error:
        raise NotRecognised(f"the router: {error}") from error
    return _in_order(router, state)


def _in_order(reading: NormalisedLinear, state: State) -> NormalisedLinear:
    if not np.array_equal(reading.tokens, np.arange(state.view.shape[0])):
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


def read_expert(arena: Arena, state: State, view: View, factor: float) -> ExpertReading:
    """Read [tokens, channels] values as ``factor`` times an MLP of the normalised residual."""
    down = read_linear(arena, view)
    reading = read_activation(arena, down.inputs)
    inner = [
        _in_order(read_normalised(arena, state, linear), state)
        for linear in (reading.linear, reading.factor)
        if linear is not None
    ]
    given = replace(down.given, source=find_step(arena, down.inputs, "activations"))
    return ExpertReading(
        inner[0],
        make_linear(down.weight * factor, down.bias * factor, down.name, given),
        reading.activation,
        inner[1] if len(inner) > 1 else None,
    )


def read_loop(arena: Arena, state: State, pairs: list[tuple[View, View]]) -> ir.Moe:
    """Read a sum of products, each of a gate weight and an expert, in either order."""
    experts: dict[int, ExpertReading] = {}
    first: Gate | None = None
    for operands in pairs:
        value, weight = sorted(operands, key=lambda v: not isinstance(arena.source_of(v), Product))
        gate = read_gate(arena, weight)
        first = first or gate
        if (
            gate.choice is not first.choice
            or gate.renormalise != first.renormalise
            or gate.sum_epsilon != first.sum_epsilon
            or not np.array_equal(gate.rows, first.rows)
        ):
            raise NotRecognised(f"{gate.choice.node} and {first.choice.node} must be one router")
        if gate.expert in experts:
            raise NotRecognised(f"expert {gate.expert} of {gate.choice.node} stands there twice")
        # A scale of the weight may differ by channel: it scales the expert's result.
        scaled = value.affine(weight.scale, 0.0)
        experts[gate.expert] = read_expert(arena, state, scaled, gate.factor)
    assert first is not None
    router = read_router(arena, state, first)
    count = router.weight.shape[0]
    if sorted(experts) != list(range(count)):
        missing = next((e for e in range(count) if e not in experts), "?")
        raise NotRecognised(
            f"the router at node {router.name!r} scores {count} experts but the graph holds "
            f"{len(experts)} (expert {missing} is missing): export the model with all experts, "
            "tracing may drop those that the sample did not use"
        )
    ordered = {e: experts[e] for e in range(count)}
    moe = _moe(router, ordered, first.choice.k, first.renormalise, first.choice.name)
    moe.sum_epsilon = first.sum_epsilon
    return moe


def read_node(arena: Arena, state: State, view: View) -> ir.Moe:
    """Read the result of a com.microsoft.MoE node.

    Among equal scores ONNX Runtime chooses the highest number, the hardware the lowest: experts
    are taken from the last to the first, so that both choose the same ones.
    """
    source = arena.source_of(view)
    assert isinstance(source, Experts)
    channels = source.rows.shape[1]
    matrix = as_matrix(view, source, channels)
    inputs = source.rows[matrix.rows]
    router = _router(arena, state, source.logits[matrix.rows][:, ::-1])
    experts = {}
    for e, (up, down) in reversed(list(enumerate(zip(source.up, source.down, strict=True)))):
        name = f"{source.name}.expert{e}"
        first = LinearReading(
            inputs, up[0].astype(np.float64), up[1].astype(np.float64), f"{name}.fc1", source.node
        )
        reading = read_normalised(arena, state, first)
        if reading.norm is not router.norm:
            raise NotRecognised(f"{source.node} and its router must read the same LayerNorm")
        weight = down[0][matrix.columns] * matrix.scale[:, None]
        bias = down[1][matrix.columns] * matrix.scale
        if matrix.offset.any():
            raise NotRecognised(f"a constant is added to the result of {source.node}")
        experts[e] = ExpertReading(
            _in_order(reading, state),
            make_linear(weight, bias, f"{name}.fc2"),
            source.activation,
        )
    return _moe(router, experts, source.top_k, source.renormalise, source.name)


def _moe(
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
