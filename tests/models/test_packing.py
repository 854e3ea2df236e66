"""Checkpoints in few bits: what comes back, how far it is off, and how big the file is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from moesaic.models.config import preset
from moesaic.models.m3vit import load_checkpoint, random_model, save_checkpoint
from moesaic.models.packing import BITS, SMALL, pack, unpack


@pytest.fixture(scope="module")
def model():
    return random_model(dataclasses.replace(preset("nano"), height=128, width=256, depth=2), 1)


@pytest.mark.parametrize("bits", BITS)
def test_round_trip_is_within_half_a_step(bits: int, model, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path / "model.pt", bits)
    loaded = load_checkpoint(tmp_path / "model.pt")
    assert loaded.config == model.config and not loaded.training
    found, changed = loaded.state_dict(), set()
    for name, value in model.state_dict().items():
        assert found[name].dtype == torch.float32
        largest = value.flatten(1).abs().amax(1) if value.ndim > 1 else value.abs()
        step = {8: largest / 127, 16: largest * 2.0**-10, 32: largest * 0}[bits]
        error = (found[name] - value).abs()
        error = error.flatten(1).amax(1) if value.ndim > 1 else error
        assert (error <= step * 0.5001).all(), name
        if error.any():
            changed.add(name)
    large = {n for n, v in model.state_dict().items() if v.ndim > 1 and v.numel() >= SMALL}
    # Positions have one row for all tokens; they and the gates stay as they are.
    assert changed == (large - {"position"} if bits < 32 else set())
    assert not any("gates" in name for name in changed)


def test_rounding_again_changes_nothing(model, tmp_path: Path) -> None:
    """What a rounded checkpoint holds is a model that can be stored as it is."""
    once = unpack(pack(model.state_dict(), 8))
    packed = pack(once, 8)
    twice = unpack(packed)
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value, rtol=1e-6, atol=0)
    codes = [entry["codes"] for entry in packed.values() if isinstance(entry, dict)]
    assert codes and all((c.flatten(1).abs().amax(1) == 127).all() for c in codes)


def test_sizes_of_the_files(model, tmp_path: Path) -> None:
    sizes = {}
    for bits in BITS:
        save_checkpoint(model, tmp_path / f"{bits}.pt", bits)
        sizes[bits] = (tmp_path / f"{bits}.pt").stat().st_size
    assert sizes[8] < 0.32 * sizes[32] and 0.5 * sizes[32] < sizes[16] < 0.56 * sizes[32]


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    weight[5] = 0
    back = unpack(pack({"w": weight}, 8))["w"]
    assert not back[5].any() and back.isfinite().all() and back[6].any()


def test_other_bits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bits must be one of \(8, 16, 32\), not 4"):
        pack({}, 4)


@pytest.mark.parametrize("entry", [{"codes": torch.zeros(2, dtype=torch.int8)}, 3, {}])
def test_a_damaged_entry_is_refused(entry: object, model, tmp_path: Path) -> None:
    weights = {**model.state_dict(), "patch_embed.weight": entry}
    torch.save({"config": model.config.to_dict(), "weights": weights}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="model.pt must be a file of models.train"):
        load_checkpoint(tmp_path / "model.pt")
