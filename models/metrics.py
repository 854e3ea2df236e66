"""Figures of merit: mean intersection over union, depth RMSE, signal to quantisation noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def confusion(prediction: Array, label: Array, classes: int) -> NDArray[np.int64]:
    """Return the (classes, classes) pixel counts, rows by label and columns by prediction.

    Raises
    ------
    ValueError
        The shapes differ, or a value is not a class.
    """
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction must have the label's shape {label.shape}, not {prediction.shape}"
        )
    for name, values in (("prediction", prediction), ("label", label)):
        if values.size and not (0 <= values.min() and values.max() < classes):
            raise ValueError(
                f"{name} must lie in 0..{classes - 1}, not {values.min()}..{values.max()}"
            )
    index = label.astype(np.int64).ravel() * classes + prediction.astype(np.int64).ravel()
    return np.bincount(index, minlength=classes * classes).reshape(classes, classes)


def class_iou(prediction: Array, label: Array, classes: int = 7) -> NDArray[np.float64]:
    """Return the intersection over union of each class over the whole set.

    A class that neither prediction nor label contains has no value: NaN.
    """
    counts = confusion(prediction, label, classes)
    hit = np.diag(counts).astype(np.float64)
    union = counts.sum(0) + counts.sum(1) - hit
    return np.divide(hit, union, out=np.full(classes, np.nan), where=union > 0)


def mean_iou(prediction: Array, label: Array, classes: int = 7) -> float:
    """Return the mean of `class_iou` over the classes that occur, in [0, 1].

    `prediction` and `label` are class indices of one shape, for all images of the set at
    once: counts are summed over the set first, as is usual, not averaged per image.
    """
    return float(np.nanmean(class_iou(prediction, label, classes)))


def depth_rmse(prediction: Array, depth: Array) -> float:
    """Return the root mean square error over all pixels, in the unit of the arguments."""
    if prediction.shape != depth.shape:
        raise ValueError(
            f"prediction must have the depth's shape {depth.shape}, not {prediction.shape}"
        )
    return float(np.sqrt(np.mean((prediction.astype(np.float64) - depth.astype(np.float64)) ** 2)))


def sqnr_db(reference: Array, quantised: Array) -> float:
    """Return 10 log10(signal power / noise power) in dB; infinite when the arrays are equal.

    The signal is `reference` itself (its mean included), the noise the difference.
    """
    if quantised.shape != reference.shape:
        raise ValueError(f"quantised must have the shape {reference.shape}, not {quantised.shape}")
    exact = reference.astype(np.float64)
    noise = float(np.sum((exact - quantised.astype(np.float64)) ** 2))
    signal = float(np.sum(exact**2))
    if noise == 0.0:
        return float("inf")
    return float(10.0 * np.log10(signal / noise)) if signal > 0.0 else float("-inf")
