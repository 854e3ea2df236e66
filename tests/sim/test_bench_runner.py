"""cocotb benches run on cached builds, and their failures are failures here."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesaic.sim.bench_runner import BenchFailure, build_executable, run_cocotb
from moesaic.sim.id_wrapper import add_id_wires
from tests.sim.dummy_top import dummy_verilog

_TOP = "top_with_ids"
_BENCH = "tests.sim.cocotb_copy"


@pytest.fixture(scope="module")
def verilog() -> str:
    return add_id_wires(dummy_verilog(1, 64))[0]


def test_passing_bench_returns_number_of_tests(verilog: str) -> None:
    assert run_cocotb(verilog, _TOP, _BENCH, parameters={"EXPECTED": "yes"}) == 2


def test_failing_test_raises_with_log(verilog: str) -> None:
    with pytest.raises(BenchFailure, match="1 of 2 tests failed") as failure:
        run_cocotb(verilog, _TOP, _BENCH, parameters={"EXPECTED": "no"})
    assert "expects_what_it_is_told" in str(failure.value)


def test_single_testcase_is_selected(verilog: str) -> None:
    assert run_cocotb(verilog, _TOP, _BENCH, testcase="copies_memory") == 1


def test_unknown_testcase_raises(verilog: str) -> None:
    with pytest.raises(BenchFailure):
        run_cocotb(verilog, _TOP, _BENCH, testcase="no_such_test")


def test_unknown_module_raises(verilog: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_bench"):
        run_cocotb(verilog, _TOP, "no_such_bench")


def test_endless_bench_is_ended(verilog: str) -> None:
    with pytest.raises(BenchFailure, match="no end after"):
        run_cocotb(verilog, _TOP, _BENCH, timeout_seconds=0.01)


def test_build_is_reused(verilog: str) -> None:
    first = build_executable(verilog, _TOP)
    stamp = first.stat().st_mtime_ns
    assert build_executable(verilog, _TOP).stat().st_mtime_ns == stamp


def test_waves_are_written(verilog: str, tmp_path: Path) -> None:
    run_cocotb(verilog, _TOP, _BENCH, testcase="copies_memory", waves=tmp_path / "w.vcd")
    assert "m_axi_d_awaddr" in (tmp_path / "w.vcd").read_text()
