"""ReadEngine on Verilator, and its refusals at construction."""

from __future__ import annotations

import pytest

from moesaic.hw.axi.read import ReadEngine
from moesaic.hw.verilog import to_verilog
from moesaic.sim.bench_runner import run_cocotb


@pytest.mark.parametrize(
    "data_bytes, max_burst, buffered",
    [(4, 256, True), (8, 16, True), (16, 64, True), (64, 64, True), (16, 64, False)],
)
def test_read_engine_bench(data_bytes: int, max_burst: int, buffered: bool) -> None:
    engine = ReadEngine(data_bytes, max_burst=max_burst, buffered=buffered)
    verilog = to_verilog(engine, "read_engine")
    tests = run_cocotb(
        verilog,
        "read_engine",
        "tests.hw.bench_read_engine",
        parameters={"DATA_BYTES": data_bytes, "MAX_BURST": max_burst},
        seed=data_bytes,
    )
    assert tests == 6


def test_parameters_must_be_powers_of_two() -> None:
    with pytest.raises(ValueError, match="data_bytes must be a power of two above 1, not 12"):
        ReadEngine(12)
    with pytest.raises(ValueError, match="outstanding must be a power of two above 1, not 3"):
        ReadEngine(16, outstanding=3)
    with pytest.raises(ValueError, match="max_burst must be at most 256, not 512"):
        ReadEngine(16, max_burst=512)
