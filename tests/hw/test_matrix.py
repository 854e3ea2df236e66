"""The matrix unit on Verilator."""

from __future__ import annotations

import dataclasses
import json

import pytest

from moesaic.hw.matrix.unit import MatrixUnit
from moesaic.hw.verilog import to_verilog
from moesaic.sim.bench_runner import run_cocotb
from moesaic.spec.presets import PRESETS

NANO = PRESETS["nano"]
SMALL = dataclasses.replace(
    NANO,
    name="small",
    depth=8,
    width=8,
    lanes=4,
    data_port_bytes=8,
    accumulator_rows=64,
    activation_bytes=32 << 10,
    max_tokens=16,
)
WIDE = dataclasses.replace(
    SMALL,
    name="wide",
    width=16,
    lanes=8,
    ring_read_bytes=32,
    packed=True,
    four_bit_weights=True,
)
WHOLE = dataclasses.replace(
    SMALL,
    name="whole",
    depth=16,
    width=32,
    lanes=8,
    ring_read_bytes=512,
    packed=True,
)
"""A ring word is a whole tile, and so wide that rows have an enable of their own."""
ARCHS = {arch.name: arch for arch in (SMALL, WIDE, WHOLE, NANO)}


@pytest.mark.parametrize("name", ARCHS)
def test_matrix_unit(name) -> None:
    arch = ARCHS[name]
    parameters = {"ARCH": json.dumps(arch.to_dict()), "PROGRAMS": 2}
    verilog = to_verilog(MatrixUnit(arch), "matrix")
    count = run_cocotb(verilog, "matrix", "tests.hw.bench_matrix", parameters=parameters)
    assert count == 12
