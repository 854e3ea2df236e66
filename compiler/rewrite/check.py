"""Shows on samples that a rewritten graph is still the same function."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.float_reference import run_outputs
from moesaic.spec.errors import UserError
from moesaic.spec.metrics import ratio_db

FRAMES = 2
LEAST_DB = 70.0
"""Roundings of rewritten weights to float32 leave 129 dB and more; int8 leaves 20 to 40."""


def check_rewritten(
    task: str, graph: ir.Graph, rewritten: ir.Graph, samples: NDArray[np.float32]
) -> float:
    """Return how close both are on a few samples in the worst output, in dB.

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

    before = run_outputs(graph, samples[:FRAMES], note)
    after = run_outputs(rewritten, samples[:FRAMES], replay)
    worst = math.inf
    for name, value in before.items():
        close = ratio_db(float((value**2).sum()), float(((after[name] - value) ** 2).sum()))
        if not close >= LEAST_DB and value.any():
            raise UserError(
                f"task {task!r}: rewriting the model for integers changes its result {name!r}"
                f" ({close:.0f} dB): float32 does not hold it; compile with --without"
                " rotate,centre,equalise"
            )
        worst = min(worst, close)
    return worst
