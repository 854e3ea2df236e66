"""Load and store unit and the shared data port on Verilator."""

from __future__ import annotations

import dataclasses

import pytest

from moesaic.hw.verilog import to_verilog
from moesaic.sim.bench_runner import run_cocotb
from moesaic.spec.presets import PRESETS
from tests.hw.transfer_harness import TransferHarness

NANO = PRESETS["nano"]
NARROW = dataclasses.replace(NANO, depth=32, width=32, lanes=4, data_port_bytes=4)
SHORT = dataclasses.replace(NANO, data_port_bytes=8, max_burst=2)
"""The shortest bursts."""
TWO = dataclasses.replace(
    NANO, weight_ports=2, weight_port_bytes=8, data_port_bytes=8, output_ports=2
)
FOUR = dataclasses.replace(
    NANO, weight_ports=4, weight_port_bytes=8, data_port_bytes=8, output_ports=4
)
"""Output ports that take two beats of each chunk, or one, as on ``zcu102``."""


@pytest.mark.parametrize(
    "arch", [NARROW, NANO, SHORT, TWO, FOUR], ids=["narrow", "nano", "short", "two", "four"]
)
def test_transfer(arch) -> None:
    verilog = to_verilog(TransferHarness(arch), "transfer")
    sizes = {"DEPTH": arch.depth, "LANES": arch.lanes, "BEAT": arch.data_port_bytes}
    sizes |= {"PORTS": arch.output_ports, "BURST": arch.max_burst}
    assert run_cocotb(verilog, "transfer", "tests.hw.bench_transfer", parameters=sizes) == 27
