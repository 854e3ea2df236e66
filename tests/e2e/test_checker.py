"""The checker itself: one wrong bit anywhere must make it fail."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from moesaic.hw.generate import top_verilog
from moesaic.sim.build import accelerator_verilog
from moesaic.sim.provider import SimulatedAccelerator
from moesaic.sim.verify import TaskVerdict, verify
from moesaic.spec import tables
from moesaic.spec.bundle import Bundle, load_bundle


def judge(bundle: Bundle, device: SimulatedAccelerator) -> list[TaskVerdict]:
    try:
        return verify(bundle, device, samples=2)
    finally:
        device.close()


def test_good_bundle_passes(small_bundle: Path) -> None:
    bundle = load_bundle(small_bundle)
    assert all(v.bit_exact for v in judge(bundle, SimulatedAccelerator(bundle)))


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_flipped_weight_bit_fails(small_bundle: Path, place: float) -> None:
    """The device sees a damaged image; the reference computes from the undamaged graph."""
    bundle = load_bundle(small_bundle)
    image = np.frombuffer(bundle.weights, np.uint8).copy()
    occupied = np.flatnonzero(image)
    image[occupied[int(place * len(occupied))]] ^= 0x40
    damaged = dataclasses.replace(bundle, weights=image.tobytes())
    verdicts = judge(bundle, SimulatedAccelerator(damaged))
    assert not all(v.bit_exact for v in verdicts)
    assert any(v.first_difference for v in verdicts)


def test_flipped_expected_code_fails(small_bundle: Path) -> None:
    bundle = load_bundle(small_bundle)
    samples = {name: array.copy() for name, array in bundle.samples.items()}
    samples["depth.codes"][0, 0] ^= 1
    damaged = dataclasses.replace(bundle, samples=samples)
    verdicts = {v.task: v for v in judge(damaged, SimulatedAccelerator(damaged))}
    assert not verdicts["depth"].bit_exact and verdicts["depth"].stale_codes == 1
    assert verdicts["seg"].bit_exact


def test_flipped_table_bit_fails(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateware made with one wrong bit in the exponential's table; the reference keeps its own."""
    bundle = load_bundle(small_bundle)
    table = list(tables.EXP2_TABLE)
    table[0] ^= 0x2000
    with monkeypatch.context() as patch:
        patch.setattr(tables, "EXP2_TABLE", tuple(table))
        verilog = top_verilog(bundle.arch)
    assert verilog != accelerator_verilog(bundle.arch)
    verdicts = judge(bundle, SimulatedAccelerator(bundle, verilog=verilog))
    assert not any(v.bit_exact for v in verdicts)


def test_flipped_bit_in_a_file_is_refused(small_bundle: Path, tmp_path: Path) -> None:
    from moesaic.spec.errors import UserError

    for name in ("device.bin", "graphs.npz", "samples.npz"):
        copy = tmp_path / name.replace(".", "_")
        copy.mkdir()
        for file in small_bundle.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        raw = bytearray((copy / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (copy / name).write_bytes(raw)
        with pytest.raises(UserError, match=re.escape(name)):
            load_bundle(copy)
