"""The output of tasks that have one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.hostside import dequantise_outputs
from moesaic.spec.intgraph import IntGraph


def only_output(graph: IntGraph, codes: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return the output [frames, ...] of codes [frames, codes]."""
    (output,) = dequantise_outputs(graph, codes).values()
    return output
