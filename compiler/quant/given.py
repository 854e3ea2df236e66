"""Integers and steps that a quantised file gives, where the arithmetic is the file's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler import ir
from moesaic.compiler.points import sites

SAME = 2.0**-21
"""Share of a row's largest weight by which rounding to float32 moves a weight off its grid."""
OUTPUT_STEPS = 256
"""Steps of a 16-bit output in one of the file's 8-bit codes."""


@dataclass(frozen=True)
class GivenStep:
    """What the codes of a point mean in the file."""

    step: float
    """Real value of one int8 code."""
    zero: int = 0
    """The int8 code of 0: of inputs and activations, which linear layers alone read."""


def given_steps(graph: ir.Graph) -> dict[str, GivenStep]:
    """Return the int8 steps that the file gives, by point.

    These are the points that both have: inputs, queries, keys, values, attended values, activations
    behind a GELU, and outputs. Normalised rows, scores, logits and sums are the accelerator's own.
    """
    steps = {}
    for site in sites(graph):
        given, own = site.linear.given, site.source.endswith("norm")
        if given.source is not None and not own:
            steps[site.source] = GivenStep(given.source, given.source_zero)
        if given.target is not None:
            steps[site.target] = GivenStep(given.target)
    return steps


def has_given(graph: ir.Graph) -> bool:
    """Say whether the file gives integers or steps of any layer."""
    return any(
        part is not None
        for site in sites(graph)
        for part in (site.linear.given.codes, site.linear.given.source, site.linear.given.target)
    )


def kept_scale(linear: ir.Linear) -> NDArray[np.float64] | None:
    """Return the scale [outputs] at which a layer's weights are the file's integers.

    None if the file gives none, or they are not any more: a LayerNorm's gamma that is folded into
    the weights takes them off the file's grid. Rows of zeros have scale 0.
    """
    if linear.given.codes is None:
        return None
    codes, weight = linear.given.codes.astype(np.float64), linear.weight.astype(np.float64)
    squares = (codes**2).sum(1)
    scale: NDArray[np.float64] = (codes * weight).sum(1) / np.where(squares > 0, squares, 1.0)
    off = np.abs(weight - codes * scale[:, None]).max(1)
    if (off > SAME * np.abs(weight).max(1)).any() or ((scale <= 0) & (squares > 0)).any():
        return None
    return scale


def given_notes(graph: ir.Graph) -> Iterator[str]:
    """Say what of a quantised file is used as it is, and what is not."""
    given = [site for site in sites(graph) if site.linear.given.codes is not None]
    if not given:
        return
    moved = [site for site in given if kept_scale(site.linear) is None]
    folded = [site for site in moved if site.source.endswith("norm")]
    yield (
        f"{len(given) - len(moved)} of {len(given)} quantised layers keep the file's integers;"
        f" {len(folded)} have a LayerNorm folded into their weights and are quantised anew"
        + (f", {len(moved) - len(folded)} for other reasons" if len(moved) > len(folded) else "")
    )
