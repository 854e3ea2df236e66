"""More experts than an accumulator row has columns: a target of one's own, from ONNX to the RTL.

As MoE nodes: torch takes a second to trace an expert of a loop.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moesaic.models.config import M3ViTConfig
from moesaic.models.ms_moe import export_ms_moe
from moesaic.spec.arch import ArchConfig
from moesaic.spec.presets import PRESETS

from .conftest import make_models, moesaic

NANO = PRESETS["nano"]
WIDE = replace(NANO, name="experts-64", max_experts=64, max_tokens=32, accumulator_rows=128)
"""Logits of 40 experts take 3 column tiles, as many as parameter blocks allow and one less."""
NARROW = replace(WIDE, name="experts-64-narrow", depth=8, width=8, lanes=8, data_port_bytes=8)
"""They take 5 tiles: more than the 4 parameter blocks of an architecture with few experts."""
FORTY = M3ViTConfig(
    height=16, width=48, patch=8, dim=24, depth=2, heads=2, experts=40, top_k=3,
    expert_hidden=12, moe_layers="all", mlp_ratio=1.0, tasks=(("seg", 3),),
)  # fmt: skip


@pytest.mark.parametrize("arch", [WIDE, NARROW], ids=lambda arch: arch.name)
def test_forty_experts_are_bit_exact(tmp_path: Path, arch: ArchConfig) -> None:
    models = make_models(tmp_path, FORTY, seed=1, samples=2, export=export_ms_moe)
    target, bundle = tmp_path / "target.json", tmp_path / "bundle"
    target.write_text(json.dumps(arch.to_dict()))
    calibration = ("--calibrate", tmp_path / "samples.npz")
    done = moesaic("compile", *models, "--target", target, *calibration, "-o", bundle)
    assert done.code == 0, done.err
    done = moesaic("estimate", bundle, "--json")
    assert done.code == 0, done.err
    estimated = json.loads(done.out)["tasks"]["seg"]["cycles"]
    done = moesaic("verify", bundle, "--json", "--stats", tmp_path / "stats.json")
    assert done.code == 0, done.out + done.err
    assert json.loads(done.out)["tasks"]["seg"]["bit_exact"]
    cycles = json.loads((tmp_path / "stats.json").read_text())["seg"]["cycles"][0]
    assert abs(estimated / cycles - 1) < 0.03


def test_sixty_five_experts_are_refused(tmp_path: Path) -> None:
    config = replace(FORTY, experts=65)
    models = make_models(tmp_path, config, seed=1, samples=1, export=export_ms_moe)
    target = tmp_path / "target.json"
    target.write_text(json.dumps(WIDE.to_dict()))
    path = models[0].split("=", 1)[1]
    done = moesaic("estimate", path, "--target", target)
    assert done.code == 2 and "Traceback" not in done.err
    assert "has 65 experts, the router holds 64" in " ".join(done.err.split())
