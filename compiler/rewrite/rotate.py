"""Rotates the residual stream, so that outliers of single channels spread over all.

LayerNorm without gamma and beta takes the mean off a row and divides by what is left: it commutes
with every rotation that keeps the direction of equal channels. So the stream ``x`` becomes
``Q x``: what writes it is multiplied by ``Q`` from the left, what reads the normalised rows by
``Q.T`` from the right. Pretrained transformers have few huge channels that everything depends on
(a row's largest value is 13 to 17 times its root mean square); rotated rows are close to normal
(4 to 5 times), which is what eight bits hold well. It costs no cycle. Channels that are alike and
weights that have no long tails, as a network has before training, only lose: :func:`crest` tells.

After QuaRot (Ashkboos et al. 2024, arXiv 2404.00456), which rotates RMS-normalised networks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moesaic.compiler import ir
from moesaic.compiler.float_reference import run_outputs
from moesaic.compiler.points import Site, first_layer, map_linears, sites

SEED = 0


def rotation(channels: int) -> NDArray[np.float64]:
    """An orthogonal matrix [channels, channels] that maps equal channels to themselves.

    Uniformly distributed over all such matrices, and always the same: tasks that share weights
    keep sharing them.
    """
    random = np.random.default_rng([SEED, channels])
    # Columns: the direction of equal channels, and any basis of all that is orthogonal to it.
    start = np.concatenate(
        [np.ones((channels, 1)), random.standard_normal((channels, channels - 1))], axis=1
    )
    basis, _ = np.linalg.qr(start)
    turned, upper = np.linalg.qr(random.standard_normal((channels - 1, channels - 1)))
    turned = turned * np.sign(np.diag(upper))  # what makes the distribution uniform
    rest = basis[:, 1:]
    direction = np.full((channels, channels), 1.0 / channels)
    result: NDArray[np.float64] = direction + rest @ turned @ rest.T
    return result


def crest(graph: ir.Graph, samples: NDArray[np.float32]) -> float:
    """How far values stand out where the residual stream is read and written: the squared largest
    magnitude over the mean square, to which the noise of eight bits is proportional.

    Of normalised rows over all samples plus of weights output by output, the mean over all linear
    layers that read or write the stream that :func:`rotate_residual` rotates, but for one that
    makes it of its norm; norms must be folded.

    Parameters
    ----------
    graph
        A task.
    samples
        [frames, *graph.input_shape[1:]].
    """
    rows: dict[str, float] = {}

    def observe(point: str, value: Tensor) -> None:
        if point.endswith("norm"):
            squares = value.double().square()
            rows[point] = float(squares.max() / squares.mean().clamp_min(1e-300))

    run_outputs(graph, samples, observe, torch.float32)
    noise = []
    renorms = {id(layer.linear) for layer in graph.layers if isinstance(layer, ir.Renorm)}
    for site in sites(graph):
        if any(_ends(graph, site)) and id(site.linear) not in renorms:
            squares = site.linear.weight.astype(np.float64) ** 2
            weights = squares.max(1) / np.maximum(squares.mean(1), 1e-300)
            noise.append(float(weights.mean()) + rows.get(site.source, 0.0))
    return float(np.mean(noise))


def _begin(graph: ir.Graph) -> int:
    """The layer that makes the last residual stream; -1 is the embedding."""
    anew = [n for n, layer in enumerate(graph.layers) if isinstance(layer, ir.Renorm)]
    return max(anew, default=-1)


def _ends(graph: ir.Graph, site: Site) -> tuple[bool, bool]:
    """Whether a linear layer reads the last residual stream, and whether it writes it."""
    reads = site.source.endswith("norm") and first_layer(graph, site.source) > _begin(graph)
    return reads, site.target == ir.stream_points(graph.layers)[-1]


def rotate_residual(graph: ir.Graph) -> ir.Graph:
    """The same function on a rotated residual stream; norms must be folded.

    A stream that is the input is left as it is.

    Where the stream begins anew, only the last one is rotated: a matrix that makes it of its norm
    is then no longer diagonal, which costs cycles. Without a layer on it, it is left as it is.

    The streams that the file has are no longer the graph's, so there are none.
    """
    if graph.layers and _begin(graph) == len(graph.layers) - 1:
        return graph
    if isinstance(graph.embed, ir.Tokens) and _begin(graph) < 0:
        return graph
    turn = rotation(graph.channels)

    def change(site: Site) -> ir.Linear:
        weight = site.linear.weight.astype(np.float64)
        bias = site.linear.bias.astype(np.float64)
        reads, writes = _ends(graph, site)
        if reads:
            weight = weight @ turn.T
        if writes:
            weight, bias = turn @ weight, turn @ bias
        return replace(site.linear, weight=weight.astype(np.float32), bias=bias.astype(np.float32))

    rotated = map_linears(graph, change)
    if _begin(graph) >= 0:
        return replace(rotated, streams=[])
    assert isinstance(rotated.embed, ir.Embed)
    initial = (rotated.embed.initial.astype(np.float64) @ turn.T).astype(np.float32)
    return replace(rotated, embed=replace(rotated.embed, initial=initial), streams=[])
