"""Fits the resource model to counts, and says how far off it is on targets it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.arch import ArchConfig
from moesaic.spec.parts import FAMILIES
from moesaic.spec.resource_model import FEATURES, FITTED, blocks_of, features, predict

Sample = dict[str, Any]
"""``arch``, ``family`` and ``blocks``: block to resources of all its instances by kind. Of large
targets only blocks that say something new are counted."""
Coefficients = dict[str, dict[str, list[float]]]
"""By kind and block."""
MULTIPLIERS = [0.0, 1.0, 0.0, 0.5]
"""Of the array, for its features: one a product, one for two if packed. By design, not by fit."""
ROUNDING = 1e-9
"""Less than that of a coefficient, all of which count a size in bits or words, is what float sums
leave of 0: it differs from processor to processor."""
REFERENCE = "xcup"
"""The family with the most samples. Of the others too few are counted for a fit of their own: their
blocks are those of this family times one factor for each block and kind."""


def fit(samples: Sequence[Sample], family: str) -> Coefficients:
    """Coefficients of one family, none of them negative."""
    mine = [sample for sample in samples if sample["family"] == family]
    if family == REFERENCE:
        return {
            kind: {block: _fit_block(mine, block, kind) for block in FEATURES} for kind in FITTED
        }
    reference = fit(samples, REFERENCE)
    return {kind: _scaled(mine, kind, reference[kind]) for kind in FITTED}


def _scaled(
    samples: Sequence[Sample], kind: str, reference: Mapping[str, list[float]]
) -> dict[str, list[float]]:
    """Another family's blocks; one that is not counted gets the median of the others' factors."""
    factors = {block: _factor(samples, block, kind, own) for block, own in reference.items()}
    known = [factor for factor in factors.values() if factor is not None]
    usual = float(np.median(known)) if known else 1.0
    result = {}
    for block, own in reference.items():
        factor = factors[block]
        times = usual if factor is None else factor
        result[block] = [float(f"{times * number:.6g}") for number in own]
    return result


def _fit_block(samples: Sequence[Sample], block: str, kind: str) -> list[float]:
    """Least squares of relative errors; a size with a negative coefficient is left out."""
    if kind == "dsp" and block == "core.matrix.array.columns":
        return MULTIPLIERS
    samples = [sample for sample in samples if block in sample["blocks"]]
    rows = np.array([features(block, ArchConfig.from_dict(s["arch"])) for s in samples])
    counts = np.array([float(sample["blocks"][block][kind]) for sample in samples])
    weights = 1 / np.maximum(counts, 1.0)
    result: NDArray[np.float64] = np.zeros(rows.shape[1])
    used = [n for n in range(rows.shape[1]) if rows[:, n].any()]
    while used and counts.any():
        found = np.linalg.lstsq(rows[:, used] * weights[:, None], counts * weights, rcond=None)[0]
        found[np.abs(found) < ROUNDING] = 0.0
        if (found >= 0).all():
            result[used] = found
            break
        used.pop(int(np.argmin(found)))
    return [float(f"{number:.6g}") for number in result]


def _factor(samples: Sequence[Sample], block: str, kind: str, own: list[float]) -> float | None:
    """Counts of another family over those of the reference family's model, for one block."""
    ratios = []
    for sample in samples:
        if block not in sample["blocks"]:
            continue
        sizes = features(block, ArchConfig.from_dict(sample["arch"]))
        expected = sum(a * b for a, b in zip(own, sizes, strict=True))
        if expected > 0:
            ratios.append(float(sample["blocks"][block][kind]) / expected)
    return float(np.mean(ratios)) if ratios else None


def total(sample: Sample, kind: str) -> float:
    """What yosys counted of a whole target."""
    return float(sum(block[kind] for block in sample["blocks"].values()))


def left_out_errors(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """For every whole target, the relative error of a model fitted to all other samples, by kind.

    The counts of the same target for other families stay.
    """
    result = []
    for number, sample in enumerate(samples):
        others = [other for n, other in enumerate(samples) if n != number]
        family = sample["family"]
        arch = ArchConfig.from_dict(sample["arch"])
        if set(sample["blocks"]) != blocks_of(arch):
            continue
        if sum(other["family"] == family for other in others) < 1:
            continue
        found = predict(arch, family, fit(others, family))
        errors = {
            kind: found[kind] / counted - 1
            for kind in FAMILIES[family]
            if (counted := total(sample, kind))
        }
        result.append({"target": arch.name, "family": family, "errors": errors})
    return result
