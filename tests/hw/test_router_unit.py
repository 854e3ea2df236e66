"""RouterUnit on Verilator, over lanes, experts and queue lengths."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from moesaic.hw.router.ranks import Ranks
from moesaic.hw.router.unit import RouterUnit
from moesaic.hw.verilog import to_verilog
from moesaic.sim.bench_runner import run_cocotb
from moesaic.spec.arch import ArchConfig
from moesaic.spec.presets import PRESETS

NANO = PRESETS["nano"]
SMALL = dataclasses.replace(NANO, depth=8, width=8, lanes=4, data_port_bytes=8, max_tokens=32)
ARCHES = {
    "nano": NANO,
    "four-chunks": SMALL,
    "many-experts": dataclasses.replace(SMALL, lanes=8, max_experts=64, max_tokens=16),
    "few-experts": dataclasses.replace(SMALL, lanes=8, max_experts=4, max_tokens=16),
}


@pytest.mark.parametrize("name", ARCHES)
def test_router_unit_bench(name: str, tmp_path: Path) -> None:
    arch = ARCHES[name]
    arch_file = tmp_path / "arch.json"
    arch_file.write_text(json.dumps(arch.to_dict()))
    tests = run_cocotb(
        to_verilog(RouterUnit(arch), "router_unit"),
        "router_unit",
        "tests.hw.bench_router_unit",
        parameters={"ARCH_FILE": arch_file},
    )
    assert tests == 9


@pytest.mark.parametrize("arch", PRESETS.values(), ids=PRESETS)
def test_presets_elaborate(arch: ArchConfig) -> None:
    assert "module router_unit" in to_verilog(RouterUnit(arch), "router_unit")


def test_ranks_compare_whole_distances() -> None:
    with pytest.raises(ValueError, match="distances must divide half of slots 8, not 3"):
        Ranks(8, 4, 3)
