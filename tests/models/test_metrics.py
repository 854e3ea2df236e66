"""Metrics against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from moesaic.models.metrics import class_iou, confusion, depth_rmse, mean_iou, sqnr_db


def test_confusion_counts_rows_by_label() -> None:
    counts = confusion(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_iou_by_hand() -> None:
    label = np.array([[0, 0, 1, 1], [2, 2, 2, 2]])
    prediction = np.array([[0, 1, 1, 1], [2, 2, 2, 0]])
    # class 0: 1 / 3; class 1: 2 / 3; class 2: 3 / 4; classes 3..6 do not occur
    iou = class_iou(prediction, label)
    np.testing.assert_allclose(iou[:3], [1 / 3, 2 / 3, 3 / 4])
    assert np.isnan(iou[3:]).all()
    assert mean_iou(prediction, label) == pytest.approx((1 / 3 + 2 / 3 + 3 / 4) / 3)


def test_iou_is_over_the_set_not_per_image() -> None:
    label = np.array([[0] * 9 + [1], [1] * 10])
    prediction = np.array([[0] * 10, [1] * 10])
    assert mean_iou(prediction, label) == pytest.approx((9 / 10 + 10 / 11) / 2)


def test_a_class_only_predicted_counts_as_zero() -> None:
    assert mean_iou(np.array([0, 1]), np.array([0, 0])) == pytest.approx((1 / 2 + 0) / 2)


def test_depth_rmse_by_hand() -> None:
    assert depth_rmse(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == pytest.approx(2**0.5)


def test_sqnr_by_hand() -> None:
    reference = np.array([3.0, 4.0])
    assert sqnr_db(reference, reference + 0.05 * np.array([3.0, 4.0])) == pytest.approx(
        20 * np.log10(20)
    )
    assert sqnr_db(reference, reference) == float("inf")
    assert sqnr_db(np.zeros(2), np.ones(2)) == float("-inf")


def test_shape_and_range_are_checked() -> None:
    with pytest.raises(ValueError, match="label's shape"):
        confusion(np.zeros((2, 2), int), np.zeros(4, int), 7)
    with pytest.raises(ValueError, match="prediction must lie in 0..6, not 0..7"):
        mean_iou(np.array([0, 7]), np.array([0, 0]))
    with pytest.raises(ValueError, match="depth's shape"):
        depth_rmse(np.zeros((1, 2)), np.zeros(2))
    with pytest.raises(ValueError, match="quantised must have the shape"):
        sqnr_db(np.zeros(2), np.zeros(3))
