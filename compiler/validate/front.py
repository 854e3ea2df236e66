"""A front that the host computes and what follows it, beside the file that both are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler import ir
from moesaic.compiler.frontend.probe import expose_tensors
from moesaic.compiler.validate.oracle import Oracle
from moesaic.compiler.validate.perturb import own_samples
from moesaic.compiler.validate.rewritten import Original
from moesaic.spec.errors import UserError

TOLERANCE = 1e-4
"""Of the largest value: ONNX Runtime fuses other nodes in a part than in the whole."""


def check_front(
    path: str | Path,
    graph: ir.Graph,
    rest: Oracle,
    samples: NDArray[np.float32],
    streams: NDArray[np.float32],
    task: str = "default",
) -> None:
    """Compare the front, and the front together with what follows, with the file.

    Parameters
    ----------
    path
        File that ``graph`` was read from; its front is not None.
    rest
        Of ``open_oracle``.
    samples, streams
        [n, ...]: the file's input, and what the front makes of it.

    Raises
    ------
    UserError
        They differ by more than float rounding.
    """
    assert graph.front is not None
    model, outputs, rewritten = expose_tensors(path, [graph.input_name], graph.choice)
    whole = Oracle(model, str(path), graph.front.input_name, outputs)
    own = own_samples(samples, graph.tokens)
    if rewritten is not None:
        original = Original(Path(path), rewritten, graph.front.input_name, outputs)
        original.check(own, own[:0], task)
    file = whole.run(own)
    behind = rest.run(streams[: len(own)])
    found = {graph.input_name: streams[: len(own)], **{name: behind[name] for name in outputs}}
    for name, value in found.items():
        wanted = file[name].astype(np.float64).reshape(len(own), -1)
        error = np.abs(value.reshape(wanted.shape) - wanted).max()
        if not error <= TOLERANCE * np.abs(wanted).max():
            raise UserError(
                f"task {task!r}, {path}: divided at {graph.input_name!r}, it computes something"
                f" else at {name!r}, by {error:.3g}: export the model in a plainer form"
            )
