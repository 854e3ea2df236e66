"""The vector unit on Verilator, against the integer semantics."""

from __future__ import annotations

import dataclasses
import json

import pytest

from moesaic.hw.vector.unit import VectorUnit
from moesaic.hw.verilog import to_verilog
from moesaic.sim.bench_runner import run_cocotb
from moesaic.spec.arch import PRESETS, ArchConfig

BENCH = "moesaic.sim.benches.vector"
NANO = PRESETS["nano"]
# Lanes below depth below width, ring words smaller than one chunk's parameters.
SMALL = dataclasses.replace(
    NANO, depth=8, width=16, lanes=4, ring_read_bytes=16, data_port_bytes=8, weight_ports=1,
    accumulator_rows=128, activation_bytes=16 << 10, residual_bytes=8 << 10, max_tokens=32,
)  # fmt: skip
# One ring word is more than a parameter block; four chunks per accumulator row.
NARROW = dataclasses.replace(
    NANO, lanes=4, ring_read_bytes=256, data_port_bytes=8, accumulator_rows=64,
    residual_bytes=8 << 10,
)  # fmt: skip
ARCHS = {"small": SMALL, "narrow": NARROW, "nano": NANO}


def run(arch: ArchConfig, testcase: str | None = None, **parameters: object) -> int:
    verilog = to_verilog(VectorUnit(arch), "vector")
    parameters["ARCH"] = json.dumps(arch.to_dict())
    return run_cocotb(verilog, "vector", BENCH, testcase=testcase, parameters=parameters)


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS.keys())
def test_vector_unit(arch: ArchConfig) -> None:
    assert run(arch) >= 2
