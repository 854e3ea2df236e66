"""Tasks that have one output."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.hostside import dequantise_outputs
from moesaic.spec.intgraph import IntGraph, IntHead


def only_output(graph: IntGraph, codes: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return the output [frames, ...] of codes [frames, codes]."""
    (output,) = dequantise_outputs(graph, codes).values()
    return output


def at_the_end(heads: tuple[IntHead, ...], layers: int) -> tuple[IntHead, ...]:
    """The heads behind another number of layers."""
    return tuple(replace(head, depth=layers) for head in heads)
