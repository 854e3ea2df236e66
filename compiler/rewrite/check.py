"""Shows on samples that a rewritten graph is still the same function."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.float_reference import run_float
from moesaic.spec.errors import UserError
from moesaic.spec.metrics import ratio_db

FRAMES = 2
LEAST_DB = 70.0
"""Roundings of rewritten weights to float32 leave 129 dB and more; int8 leaves 20 to 40."""


def check_rewritten(
    task: str, graph: ir.Graph, rewritten: ir.Graph, samples: NDArray[np.float32]
) -> float:
    """Return how close both are on a few samples, in dB.

    Tokens take the experts that they take in ``graph``, so that a tie is none.

    Raises
    ------
    UserError
        They differ by far more than roundings.
    """
    logits: dict[str, Tensor] = {}

    def note(point: str, value: Tensor) -> None:
        if point.endswith(".logits"):
            logits[point] = value

    def replay(point: str, value: Tensor) -> Tensor:
        return logits.get(point, value)

    before = run_float(graph, samples[:FRAMES], note)
    after = run_float(rewritten, samples[:FRAMES], replay)
    close = ratio_db(float((before**2).sum()), float(((after - before) ** 2).sum()))
    if not close >= LEAST_DB and before.any():
        raise UserError(
            f"task {task!r}: rewriting the model for integers changes its result ({close:.0f} dB):"
            " float32 does not hold it; compile with --without rotate,centre,equalise"
        )
    return close
