"""The trained nano, quantised by ONNX Runtime: its integers beside ours, differences explained."""

from __future__ import annotations

import pytest

from moesaic.models.export import export_onnx
from moesaic.models.m3vit import trained_model
from moesaic.models.scenes import HELDOUT_SEED, make_batch
from tests.compiler.measure_given import Comparison, compare


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("nano")
    model = trained_model("nano")
    export_onnx(model, "seg", folder / "seg.onnx")
    size = model.config.height, model.config.width
    calibration = make_batch(range(1000, 1004), *size).image
    heldout = make_batch(range(HELDOUT_SEED, HELDOUT_SEED + 32), *size).image
    return compare(folder / "seg.onnx", calibration, heldout, folder)


def test_integers_are_nearer_to_float_than_the_file(nano: Comparison) -> None:
    """What is done in its own way is finer: the residual stream has 16 bits, a sum one rounding."""
    assert nano.integers_to_float > 32
    assert nano.integers_to_float > nano.runtime_to_float + 8


def test_differences_come_from_what_is_done_otherwise(nano: Comparison) -> None:
    """Without those quantisers the file computes nearly what the integers do."""
    assert nano.rows[-1].rest > 33
    assert nano.rows[-1].rest > nano.integers_to_runtime + 8
    shares = [10 ** (-row.alone / 10) for row in nano.rows]
    shares += [10 ** (-alone / 10) for _, alone in nano.shared]
    # The causes one by one make up the file's whole error: none is missing.
    assert 0.5 < sum(shares) / 10 ** (-nano.runtime_to_float / 10) < 2


def test_every_cause_is_counted(nano: Comparison) -> None:
    counts = {row.cause: row.count for row in nano.rows}
    assert counts["normalised rows, behind gamma and beta"] == 13
    assert counts["scores"] == 6
    assert counts["probabilities"] == 6 + 3
    assert (
        "34 of 83 quantised layers keep the file's integers; 49 have a LayerNorm" in nano.notes[0]
    )
