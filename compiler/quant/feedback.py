"""Weight codes whose rounding errors cancel on the inputs that calibration saw.

Inputs of a layer are correlated: what rounding one weight does to the output, the weights of
later inputs can take back. After GPTQ (Frantar et al. 2023, arXiv 2210.17323): columns are rounded
one after the other, the largest inputs first, and the error of each is fed into those not yet
rounded, along the inverse of the inputs' covariance.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]

DAMPING = 0.001
"""Added to the covariance's diagonal, as a share of its mean, so that it has an inverse."""
BLOCK = 64
"""Columns whose errors are fed into the later ones in one product."""


def round_half_up(values: Array) -> Array:
    """``floor(x + 0.5)``: the rounding of ``spec.semantics``."""
    result: Array = np.floor(values + 0.5)
    return result


def round_with_feedback(weight: Array, scale: Array, covariance: Array, limit: int) -> Array:
    """Codes of the weights with the least output error that is found.

    Parameters
    ----------
    weight
        [outputs, inputs].
    scale
        [outputs], real value of one step.
    covariance
        [inputs, inputs], mean outer product of the input rows.
    limit
        Largest magnitude of a code.

    Returns
    -------
    Integral codes [outputs, inputs]. Of each output, those rounded to nearest where feedback does
    not lower the mean squared error on these inputs.
    """
    plain = np.clip(round_half_up(weight / scale[:, None]), -limit, limit)
    power = np.diag(covariance)
    if not power.any():
        return plain
    order = np.argsort(-power, kind="stable")
    damped = covariance[np.ix_(order, order)] + DAMPING * power.mean() * np.eye(len(power))
    # NumPy inverts by way of a general factorisation, five times the work.
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(damped)))
    upper = torch.linalg.cholesky(inverse).numpy().T
    codes = np.empty_like(weight)
    codes[:, order] = _feed(weight[:, order], scale, upper, limit)
    worse = _error(weight, codes, scale, covariance) > _error(weight, plain, scale, covariance)
    return np.where(worse[:, None], plain, codes)


def _feed(weight: Array, scale: Array, upper: Array, limit: int) -> Array:
    """``upper.T @ upper`` is the inverse of the covariance."""
    # By input: what one input's error changes in those behind it lies in one piece.
    left, codes = np.ascontiguousarray(weight.T), np.empty_like(weight.T, order="C")
    count = len(left)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        errors = np.empty((end - start, len(weight)))
        for column in range(start, end):
            code = np.clip(round_half_up(left[column] / scale), -limit, limit)
            codes[column] = code
            error = (left[column] - code * scale) / upper[column, column]
            left[column:end] -= upper[column, column:end, None] * error
            errors[column - start] = error
        left[end:] -= upper[start:end, end:].T @ errors
    return codes.T


def _error(weight: Array, codes: Array, scale: Array, covariance: Array) -> Array:
    """Mean squared error [outputs] of the outputs."""
    difference = weight - codes * scale[:, None]
    result: Array = ((difference @ covariance) * difference).sum(1)
    return result
