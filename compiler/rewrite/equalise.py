"""Gives channels that are multiplied with each other or with weights the same range.

Queries and keys meet channel by channel: a factor on one and its inverse on the other leaves all
scores as they are. Values and attended rows are linear in each other: a factor on a channel of
the values goes into the columns of the output projection. One step per tensor then serves all
channels alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler import ir

Peaks = Callable[[str], NDArray[np.float64]]
"""Point to the largest magnitude [features] of each feature on the calibration samples."""
MOST = 2.0**10
"""A channel is scaled by no more, whatever the samples say of it."""


def equalise(graph: ir.Graph, peaks: Peaks) -> ir.Graph:
    """The same function with equal ranges per channel, by ``peaks(point)``."""
    layers: list[ir.Layer] = []
    for number, layer in enumerate(graph.layers):
        if isinstance(layer, ir.Attention):
            seen = {part: peaks(f"{number}.{part}") for part in ("query", "key", "value")}
            layer = _equalised(layer, **seen, attention=peaks(f"{number}.attention"))
        layers.append(layer)
    return replace(graph, layers=layers)


def _equalised(
    layer: ir.Attention,
    query: NDArray[np.float64],
    key: NDArray[np.float64],
    value: NDArray[np.float64],
    attention: NDArray[np.float64],
) -> ir.Attention:
    if layer.rotary is not None:  # a factor that differs inside a pair is none of its rotation
        query, key = (_pairwise(seen, layer.heads) for seen in (query, key))
    narrower = _factors(np.sqrt(key * query), key)  # on keys; its inverse on queries
    # Both are rounded to int8: the one channel's range is between its two ranges.
    common = np.sqrt(value * attention)
    shrink = _factors(np.full_like(common, common.max(initial=0.0)), common)
    return replace(
        layer,
        query=_scaled(layer.query, 1.0 / narrower),
        key=_scaled(layer.key, narrower),
        value=_scaled(layer.value, shrink),
        output=replace(
            layer.output,
            weight=(layer.output.weight.astype(np.float64) / shrink).astype(np.float32),
        ),
    )


def _pairwise(seen: NDArray[np.float64], heads: int) -> NDArray[np.float64]:
    """The larger magnitude of both channels of each pair, at both."""
    pairs = seen.reshape(heads, 2, -1).max(1, keepdims=True)
    return np.repeat(pairs, 2, axis=1).reshape(-1)


def _factors(wanted: NDArray[np.float64], seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """``wanted / seen`` within bounds; 1 where a channel was always zero."""
    usable = (seen > 0) & (wanted > 0)
    ratio = np.divide(wanted, seen, out=np.ones_like(seen), where=usable)
    factors: NDArray[np.float64] = ratio.clip(1.0 / MOST, MOST)
    return factors


def _scaled(linear: ir.Linear, factors: NDArray[np.float64]) -> ir.Linear:
    return replace(
        linear,
        weight=(linear.weight.astype(np.float64) * factors[:, None]).astype(np.float32),
        bias=(linear.bias.astype(np.float64) * factors).astype(np.float32),
    )
