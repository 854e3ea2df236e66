"""The activation scratchpad on Verilator."""

from __future__ import annotations

import dataclasses

import pytest

from moesaic.hw.memory.scratchpad import ActivationScratchpad
from moesaic.hw.verilog import to_verilog
from moesaic.sim.bench_runner import run_cocotb
from moesaic.spec.presets import PRESETS

NANO = PRESETS["nano"]
SMALL = dataclasses.replace(
    NANO, depth=8, width=8, lanes=4, data_port_bytes=8, activation_bytes=1024, activation_banks=4
)
FIVE = dataclasses.replace(SMALL, name="five-banks", activation_bytes=1280, activation_banks=5)


@pytest.mark.parametrize("arch", [SMALL, FIVE, NANO], ids=lambda arch: arch.name)
def test_scratchpad(arch) -> None:
    verilog = to_verilog(ActivationScratchpad(arch), "scratchpad")
    sizes = {"DEPTH": arch.depth, "WORDS": arch.activation_words, "BANKS": arch.activation_banks}
    assert run_cocotb(verilog, "scratchpad", "tests.hw.bench_scratchpad", parameters=sizes) == 7
