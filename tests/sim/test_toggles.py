"""Toggles of registers: read from SAIF, fitted to windows, and recorded of today's gateware."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesaic.sim.build import accelerator_verilog
from moesaic.sim.device import SimDevice
from moesaic.sim.library import build_library
from moesaic.sim.saif import find_registers, read_toggles
from moesaic.sim.toggles import Window, compare, count_toggles, fit_rates, main, register_bits
from moesaic.spec.presets import PRESETS
from moesaic.spec.resource_model import FEATURES
from moesaic.spec.toggles import Rates, block_of, recorded_rates, recorded_toggles, unit_of
from tests.sim.dummy_top import dummy_verilog

_DESTINATION = 8
CHANGE = 0.05
"""By so much a block's registers may be more or fewer than when its toggles were recorded."""


@pytest.fixture(scope="module")
def verilog() -> str:
    return dummy_verilog(1, 32)


def test_registers_are_found_with_their_bits(verilog: str) -> None:
    found = find_registers(verilog)
    assert list(found) == [""]  # without the memory, which is no instance of Amaranth's
    assert found[""]["destination"] == found[""]["offset"] == 32 and found[""]["error"] == 2
    assert {"irq", "start", "s_axil_rdata"} <= found[""].keys()
    assert not {"clk", "s_axil_awready", "m_axi_d_araddr"} & found[""].keys()  # wires


def test_toggles_are_those_of_what_was_written(verilog: str, tmp_path: Path) -> None:
    register = {"": {"destination": 32}}
    with SimDevice(build_library(verilog, trace="saif")) as device:
        device.write_register(_DESTINATION, 0xFF00_00FF)
        device.start_trace(tmp_path / "a.saif")
        device.write_register(_DESTINATION, 0)  # was 1 in 16 bits, which counts, and changes in all
        device.write_register(_DESTINATION, 0x7)
        device.start_trace(tmp_path / "b.saif")
        device.step(5)
        device.stop_trace()
        device.stop_trace()  # as often as one likes
        assert read_toggles(tmp_path / "a.saif", register, block_of) == {"top": 16 + 16 + 3}
        assert read_toggles(tmp_path / "b.saif", register, block_of) == {"top": 3}
        assert count_toggles(device, register, 10, tmp_path) == {"top": 0}
        whole = find_registers(verilog)
        assert count_toggles(device, whole, 10, tmp_path) == {"top": 0}
    with pytest.raises(ValueError, match="has 32 of the 33 register bits of the top"):
        read_toggles(tmp_path / "b.saif", {"": {"destination": 33}}, block_of)


def _windows(rates: dict[str, Rates], bits: dict[str, int]) -> list[Window]:
    windows = []
    for share in (0.1, 0.5, 0.9):
        busy = {"matrix": round(400 * share), "vector": 400 - round(400 * share)}
        toggles = {
            block: round(rates[block].toggles(busy.get(unit_of(block), 0), 400) * count)
            for block, count in bits.items()
        }
        windows.append(Window(400, busy, toggles))
    return windows


def test_rates_are_found_again() -> None:
    bits = {"core.matrix": 5000, "core.vector.lanes": 20_000, "control": 3000}
    rates = {
        "core.matrix": Rates(5000, 0.2, 0.01),
        "core.vector.lanes": Rates(20_000, 0.3, 0.0),
        "control": Rates(3000, 0.004, 0.004),
    }
    windows = _windows(rates, bits)
    found = fit_rates(windows, bits)
    for block, right in rates.items():
        assert found[block].busy == pytest.approx(right.busy, abs=2e-5)
        assert found[block].idle == pytest.approx(right.idle, abs=2e-5)
    good = compare(windows, bits, found)
    assert abs(good["error"]) < 1e-3 and good["window_error"] < 1e-3
    wrong = {**found, "core.vector.lanes": Rates(20_000, 0.6, 0.0)}
    bad = compare(windows, bits, wrong)
    assert bad["error"] > 0.3 and bad["blocks"]["core.vector.lanes"] > 0.3
    assert bad["blocks"]["core.matrix"] == pytest.approx(0, abs=1e-3)


def test_rates_that_cannot_be_are_not_taken() -> None:
    bits = {"core.matrix": 1000}
    less = [Window(100, {"matrix": n}, {"core.matrix": 3000 - 20 * n}) for n in (10, 90)]
    found = fit_rates(less, bits)["core.matrix"]  # more toggles where idle: the mean
    assert found.busy == found.idle == pytest.approx(0.02)
    never = fit_rates([Window(100, {"matrix": 0}, {"core.matrix": 500})] * 2, bits)["core.matrix"]
    assert never.busy == never.idle == pytest.approx(0.005)


def test_what_was_recorded_agrees_with_itself() -> None:
    record, rates = recorded_toggles(), recorded_rates()
    assert set(rates) == set(FEATURES)
    for block, found in rates.items():
        assert found.bits > 0 and 0 <= found.idle <= found.busy <= 1, block
    assert record["fitted"] in record["checked"] and len(record["checked"]) > 3
    for name, checked in record["checked"].items():
        assert abs(checked["error"]) < 0.16, name  # else docs/energy.md says otherwise
        assert checked["window_error"] < 0.25, name


def stale(bits: dict[str, int]) -> list[str]:
    """Blocks that are others than when their toggles were recorded."""
    rates = recorded_rates()
    return [
        block
        for block, count in bits.items()
        if block not in rates or abs(count - rates[block].bits) > CHANGE * rates[block].bits
    ]


def test_records_are_of_todays_gateware() -> None:
    bits = register_bits(find_registers(accelerator_verilog(PRESETS["nano"])))
    assert stale(bits) == [], (
        "python -m moesaic.sim.toggles build/demo/bundle --record, and docs/energy.md"
    )
    assert stale({**bits, "core.vector": 2 * bits["core.vector"]}) == ["core.vector"]
    assert stale({**bits, "core.another": 1}) == ["core.another"]


def test_wrong_use_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--windows", "1"]) == 2
    assert main([str(tmp_path / "none")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)
