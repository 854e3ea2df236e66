"""Takes the mean off keys and values.

A constant vector added to every key of a head adds the same to all scores of a row, which softmax
does not see: keys lose theirs for nothing. Weights of attention sum to one, so a constant vector
in the values comes out as it went in: it moves into the bias of the output projection. Real key
biases reach ten times the queries; they alone used up the range. Keys that are rotated keep theirs:
a constant in front of a rotation is none behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler import ir

Mean = Callable[[str], NDArray[np.float64]]
"""Point to the mean [features] of its rows on the calibration samples."""


def centre(graph: ir.Graph, mean: Mean) -> ir.Graph:
    """The same function whose keys and values have the mean 0 where they had ``mean(point)``."""
    layers: list[ir.Layer] = []
    for number, layer in enumerate(graph.layers):
        if isinstance(layer, ir.Attention):
            layer = _centred(layer, mean(f"{number}.key"), mean(f"{number}.value"))
        layers.append(layer)
    return replace(graph, layers=layers)


def _centred(
    layer: ir.Attention, key: NDArray[np.float64], value: NDArray[np.float64]
) -> ir.Attention:
    moved = layer.output.weight.astype(np.float64) @ value
    return replace(
        layer,
        key=layer.key if layer.rotary is not None else _plus(layer.key, -key),
        value=_plus(layer.value, -value),
        output=_plus(layer.output, moved),
    )


def _plus(linear: ir.Linear, constant: NDArray[np.float64]) -> ir.Linear:
    return replace(linear, bias=(linear.bias.astype(np.float64) + constant).astype(np.float32))
