"""The control block, with load and store units, on Verilator."""

from __future__ import annotations

import pytest

from moesaic.hw.verilog import to_verilog
from moesaic.sim.bench_runner import run_cocotb
from moesaic.spec.presets import PRESETS
from tests.hw.control_harness import ControlHarness

ARCH = PRESETS["nano"]


@pytest.mark.parametrize(("module", "tests"), [("bench_control", 10), ("bench_control_errors", 22)])
def test_control(module: str, tests: int) -> None:
    verilog = to_verilog(ControlHarness(ARCH), "control")
    parameters = {
        "DEPTH": ARCH.depth,
        "LANES": ARCH.lanes,
        "BEAT": ARCH.data_port_bytes,
        "ARCH_HASH": ARCH.hash,
    }
    assert run_cocotb(verilog, "control", f"tests.hw.{module}", parameters=parameters) == tests
