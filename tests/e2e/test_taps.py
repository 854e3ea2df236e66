"""Several outputs of a task on the RTL."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moesaic.compiler.driver import compile
from moesaic.sim.dram import DramConfig
from moesaic.sim.provider import SimulatedAccelerator
from moesaic.sim.verify import verify
from moesaic.spec.bundle import Bundle, load_bundle
from tests.compiler.onnx_taps import images, save


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("taps")
    compile(save("heads", folder), "nano", images(12), folder / "bundle")
    return load_bundle(folder / "bundle")


@pytest.mark.parametrize("seed", [1, 2])
def test_rtl_gives_all_outputs_whatever_the_memory_does(bundle: Bundle, seed: int) -> None:
    device = SimulatedAccelerator(bundle, dram=DramConfig(gap_probability=0.4, seed=seed))
    try:
        (verdict,) = verify(bundle, device, samples=2)
    finally:
        device.close()
    graph = bundle.graphs["default"]
    assert verdict.bit_exact and verdict.codes == 2 * graph.codes and len(graph.heads) == 4


def test_difference_names_its_output(bundle: Bundle) -> None:
    graph = bundle.graphs["default"]
    place = sum(head.codes for head in graph.heads[:2]) + 24 + 5

    class Wrong(SimulatedAccelerator):
        def run(self, task: str, patches: np.ndarray) -> object:  # type: ignore[override]
            result = super().run(task, patches)
            result.codes[0, place] ^= 1
            return result

    device = Wrong(bundle)
    try:
        (verdict,) = verify(bundle, device, samples=1)  # type: ignore[arg-type]
    finally:
        device.close()
    assert not verdict.bit_exact and verdict.differing_codes == 1
    assert verdict.first_difference.startswith("output 'y2', frame, row, column (0, 1, 5): ")


def test_driver_has_the_windows_of_all_outputs(bundle: Bundle, tmp_path: Path) -> None:
    device = SimulatedAccelerator(bundle)
    try:
        _, size = device.driver.windows("default")["output0"]
    finally:
        device.close()
    lanes = bundle.arch.lanes
    chunks = sum(h.rows * -(-h.linear.outputs // lanes) for h in bundle.graphs["default"].heads)
    assert size * bundle.arch.output_ports == chunks * 2 * lanes
