"""int8 weights, int32 biases and requantisation of one linear layer, accumulators proven."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler.points import Site
from moesaic.compiler.quant.feedback import round_half_up, round_with_feedback
from moesaic.compiler.quant.given import kept_scale
from moesaic.spec.errors import UserError
from moesaic.spec.formats import (
    FEW_WEIGHT_BITS,
    FEW_WEIGHT_LARGEST,
    INT16_LARGEST,
    WEIGHT_BITS,
)
from moesaic.spec.intgraph import IntLinear, Scale

ACCUMULATOR_MAX = (1 << 31) - 1
WEIGHT_MAX = 127
BIAS_BITS_ALONE = 20
"""A channel whose weights are all zero has its bias at this many bits."""

CLIP_RATIOS = tuple(1.0 - 0.05 * i for i in range(8))
"""Clips tried per channel: the largest weight times 1.00, 0.95 ... 0.65."""
FEW_CLIP_RATIOS = tuple(1.0 - 0.025 * i for i in range(25))
"""And with four bits, where a finer step is worth more than the few weights beyond: to 0.4."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Inputs:
    """What calibration knows of a layer's input rows.

    Attributes
    ----------
    covariance
        [inputs, inputs], mean outer product.
    mean
        [inputs].
    feedback, correct
        Whether rounding errors are fed back, and what remains on average goes into the bias.
    """

    covariance: Array
    mean: Array
    feedback: bool = True
    correct: bool = True


def largest_code(weight_bits: int) -> int:
    """Largest magnitude of a weight's code."""
    return FEW_WEIGHT_LARGEST if weight_bits == FEW_WEIGHT_BITS else WEIGHT_MAX


def best_scales(weight: Array, importance: Array, most: int = WEIGHT_MAX) -> Array:
    """Weight scale per output [outputs] with the least sum of importance * (w - code * scale)**2.

    importance [inputs] is the mean square of each input, ``most`` the largest code.
    """
    largest = np.abs(weight).max(1)
    best, least = largest / most, np.full(len(weight), np.inf)
    for ratio in CLIP_RATIOS if most == WEIGHT_MAX else FEW_CLIP_RATIOS:
        scale = np.where(largest > 0, ratio * largest / most, 1.0)
        codes = np.clip(round_half_up(weight / scale[:, None]), -most, most)
        error = ((weight - codes * scale[:, None]) ** 2 * importance).sum(1)
        better = error < least
        best, least = np.where(better, scale, best), np.where(better, error, least)
    return best


def quantise_linear(
    site: Site,
    source_scale: float,
    target_scale: float,
    inputs: Inputs,
    zero: int = 0,
    wide: int = 0,
    weight_bits: int = WEIGHT_BITS,
) -> IntLinear:
    """Quantise one layer; integers that a quantised file gives stay as they are.

    Parameters
    ----------
    site
        The float layer and the largest input code.
    source_scale, target_scale
        Real value of one step of the input and of the requantised output.
    inputs
        Statistics of the input rows.
    zero
        Code of the input's zero: the bias takes it out again.
    wide
        Of so many inputs, the first ones, codes have 16 bits and zero is 0.
    weight_bits
        Of the weights, 8 or 4; 8 where a file's integers need them.

    Raises
    ------
    UserError
        The requantisation factor of a channel does not fit: its weights are far too large for
        the range that calibration saw.
    """
    weight = site.linear.weight.astype(np.float64)
    bias = site.linear.bias.astype(np.float64)
    alone = np.abs(bias) / (source_scale * (1 << BIAS_BITS_ALONE))
    # Codes of the input are rounded: noise of its own, alike in all features.
    covariance = inputs.covariance + np.eye(len(inputs.covariance)) * source_scale**2 / 12
    kept = kept_scale(site.linear)
    if kept is not None and np.abs(site.linear.given.codes).max(initial=0) > FEW_WEIGHT_LARGEST:  # type: ignore[arg-type]
        weight_bits = WEIGHT_BITS
    most = largest_code(weight_bits)
    scale = best_scales(weight, np.diag(covariance), most) if kept is None else kept
    empty = np.abs(weight).max(1) == 0
    # A channel of zeros alone (a dead one) is zero at every scale: one that gives a plain factor.
    scale = np.where(empty, np.where(alone > 0, alone, target_scale / source_scale), scale)

    limits = np.full(weight.shape[1], site.input_limit)
    limits[:wide] = INT16_LARGEST

    def codes(scale: Array) -> tuple[Array, Array, Array]:
        if inputs.feedback and kept is None:
            whole = round_with_feedback(weight, scale, covariance, most)
        else:
            whole = np.clip(round_half_up(weight / scale[:, None]), -most, most)
        lost = (weight - whole * scale[:, None]) @ inputs.mean if inputs.correct else 0.0
        offset = round_half_up((bias + lost) / (source_scale * scale)) - zero * whole[:, wide:].sum(
            1
        )
        return whole, offset, np.abs(whole) @ limits + np.abs(offset)

    whole, offset, worst = codes(scale)
    while (worst > ACCUMULATOR_MAX).any():
        # 1.01: rounding may keep the sum just above the limit for a few turns.
        scale = np.where(worst > ACCUMULATOR_MAX, scale * 1.01 * worst / ACCUMULATOR_MAX, scale)
        whole, offset, worst = codes(scale)
    try:
        factors = [Scale.of(float(value)) for value in source_scale * scale / target_scale]
    except ValueError as error:
        raise UserError(
            f"linear layer {site.linear.name} must keep to the range seen in calibration,"
            f" but one of its channels is far larger ({error}): calibrate with samples like"
            " those of real use"
        ) from error
    return IntLinear(
        weight=whole.astype(np.int8),
        bias=offset.astype(np.int32),
        multiplier=np.array([factor.multiplier for factor in factors], np.uint16),
        shift=np.array([factor.shift for factor in factors], np.uint8),
        weight_bits=weight_bits,
    )
