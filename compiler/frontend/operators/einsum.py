"""Einsum: a chain of sums and batched matrix products, two operands at a time."""

from __future__ import annotations

import numpy as np

from moesaic.compiler.frontend.algebra import Algebra, Value, transpose
from moesaic.compiler.frontend.operators.call import Call
from moesaic.compiler.frontend.views import NotRecognised, View


def einsum(call: Call) -> list[Value]:
    """Contract the operands from the left to the right."""
    equation = str(call.attributes.get("equation", "")).replace(" ", "")
    if equation.count("->") != 1 or "." in equation:
        raise NotRecognised(f"equation {equation!r} must have an explicit result and no ellipsis")
    operands, result = equation.split("->")
    labels = operands.split(",")
    if len(labels) != len(call.inputs) or any(len(set(p)) < len(p) for p in (*labels, result)):
        raise NotRecognised(f"equation {equation!r} repeats a label or does not fit its operands")
    if not set(result) <= set(operands):
        raise NotRecognised(f"equation {equation!r} has a label in its result alone")
    sizes: dict[str, int] = {}
    values: list[Value] = []
    for index, own in enumerate(labels):
        value = call.value(index)
        fits = len(value.shape) == len(own) and all(
            sizes.setdefault(label, size) == size
            for label, size in zip(own, value.shape, strict=True)
        )
        if not fits:
            raise NotRecognised(f"equation {equation!r} does not fit its operands' shapes")
        values.append(value)
    total, known = values[0], labels[0]
    for index in range(len(values)):
        later = "".join(labels[index + 1 :])
        following = labels[index + 1] if index + 1 < len(labels) else ""
        total, known = _sum_away(call.algebra, total, known, set(result) | set(later))
        if not following:
            break
        wanted = set(result).union(*labels[index + 2 :])
        other, second = _sum_away(call.algebra, values[index + 1], following, wanted | set(known))
        total, known = _contract(call.algebra, (total, other), (known, second), wanted, sizes)
    return [transpose(total, [known.index(c) for c in result])]


def _sum_away(algebra: Algebra, value: Value, labels: str, wanted: set[str]) -> tuple[Value, str]:
    """Sum over the labels that nothing else has."""
    alone = [c for c in labels if c not in wanted]
    if not alone:
        return value, labels
    kept = [c for c in labels if c in wanted]
    moved = transpose(value, [labels.index(c) for c in kept + alone])
    shape = moved.shape[: len(kept)]
    flat = moved.reshape(*shape, -1)
    return (algebra.row_sum(flat) if isinstance(flat, View) else flat.sum(-1)), "".join(kept)


def _contract(
    algebra: Algebra,
    values: tuple[Value, Value],
    labels: tuple[str, str],
    wanted: set[str],
    sizes: dict[str, int],
) -> tuple[Value, str]:
    """Multiply two operands, and sum over what both have and nothing else."""
    left, right = labels
    batch = [c for c in left if c in right and c in wanted]
    summed = [c for c in left if c in right and c not in wanted]
    free = [c for c in left if c not in right], [c for c in right if c not in left]

    def arrange(index: int, first: list[str], second: list[str]) -> Value:
        own = labels[index]
        moved = transpose(values[index], [own.index(c) for c in batch + first + second])
        rows, columns = (int(np.prod([sizes[c] for c in part])) for part in (first, second))
        return moved.reshape(*(sizes[c] for c in batch), rows, columns)

    product = algebra.matmul(arrange(0, free[0], summed), arrange(1, summed, free[1]))
    order = batch + free[0] + free[1]
    return product.reshape(*(sizes[c] for c in order)), "".join(order)
