"""StreamUnit on Verilator, over port counts, port widths and lines per ring word."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from moesaic.hw.stream.unit import StreamUnit
from moesaic.hw.verilog import to_verilog
from moesaic.sim.bench_runner import run_cocotb
from moesaic.spec.arch import ArchConfig
from moesaic.spec.presets import PRESETS

NANO = PRESETS["nano"]
SMALL = dataclasses.replace(NANO, depth=8, width=8, lanes=4, data_port_bytes=8, max_experts=8)
ARCHES = {
    "one-port": dataclasses.replace(
        SMALL, weight_ports=1, weight_port_bytes=8, ring_read_bytes=16, ring_bytes=256
    ),
    "two-ports": dataclasses.replace(
        SMALL, weight_ports=2, weight_port_bytes=4, ring_read_bytes=8, ring_bytes=256
    ),
    "four-ports": dataclasses.replace(
        SMALL, weight_ports=4, weight_port_bytes=4, ring_read_bytes=64, ring_bytes=2048
    ),
    "nano": dataclasses.replace(NANO, ring_bytes=1024),
}


@pytest.mark.parametrize("name", ARCHES)
def test_stream_unit_bench(name: str, tmp_path: Path) -> None:
    arch = ARCHES[name]
    arch_file = tmp_path / "arch.json"
    arch_file.write_text(json.dumps(arch.to_dict()))
    tests = run_cocotb(
        to_verilog(StreamUnit(arch), "stream_unit"),
        "stream_unit",
        "tests.hw.bench_stream_unit",
        parameters={"ARCH_FILE": arch_file},
    )
    assert tests == 7


@pytest.mark.parametrize("arch", PRESETS.values(), ids=PRESETS)
def test_presets_elaborate(arch: ArchConfig) -> None:
    assert "module stream_unit" in to_verilog(StreamUnit(arch), "stream_unit")
