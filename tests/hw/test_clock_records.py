"""Clocks in spec/clocks.json: of today's gateware, inside their budgets, and how they get there.

No synthesis: the Verilog, which the cache mostly has, is compared with what was measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesaic.hw.timing import __main__ as command
from moesaic.hw.timing import delays, record
from moesaic.spec.clocks import RECORDS, recorded_clocks
from moesaic.spec.presets import PRESETS

RECORDED = recorded_clocks()
PATH = {
    "ns": 3.1234, "levels": 5, "carries": 1, "end": "flip_flop",
    "end_name": "", "end_block": "core",
    "steps": [{"name": "core.first"}, {"name": "core.second"}],
}  # fmt: skip


def result(worst_ns: float = 3.1234, over: int = 7) -> dict[str, Any]:
    """Of an analysis, as far as a record is made of it."""
    return {
        "target": "nano", "worst_ns": worst_ns, "mhz": 750 / worst_ns, "ends": 100, "over": over,
        "budget_ns": 2.5, "paths": [PATH], "blocks": [], "across": [],
    }  # fmt: skip


def other_tools(kept: dict[str, Any]) -> str | None:
    """Why Verilog cannot be compared: it depends on versions."""
    here = record.versions(*record.MAKERS)
    wrong = [f"{name} {have}" for name, have in here.items() if kept["made_with"][name] != have]
    return f"recorded with another version than {', '.join(wrong)}" if wrong else None


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_clock_is_of_this_gateware(name: str) -> None:
    if reason := other_tools(RECORDED[name]):
        pytest.skip(reason)
    assert record.stale(PRESETS[name], RECORDED[name]) is None


@pytest.mark.parametrize("name", RECORDED)
def test_longest_path_is_inside_its_budget(name: str) -> None:
    assert record.over_budget(name, RECORDED[name]) is None


def test_other_gateware_other_delays_and_other_tools_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nano, told = PRESETS["nano"], "stale: run make timing TARGET=nano TIMING_ARGS=--record"
    kept = RECORDED["nano"] | {"verilog": record.verilog_key(nano), "delays": record.delays_key()}
    assert record.stale(nano, kept) is None
    with monkeypatch.context() as patch:
        patch.setattr(record, "cached_verilog", lambda arch: "module top; endmodule\n")
        assert told in (record.stale(nano, kept) or "")
    with monkeypatch.context() as patch:
        patch.setattr(delays, "LUT", 0.1)
        assert told in (record.stale(nano, kept) or "")
    made_with = {**kept["made_with"], "amaranth": "0.4"}
    assert "than amaranth" in (other_tools({"made_with": made_with}) or "")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where records go: no checkout's file."""
    path = tmp_path / "clocks.json"
    path.write_text("{}")
    monkeypatch.setattr(record, "RECORDS", path)
    monkeypatch.setattr(record, "cached_verilog", lambda arch: "module top; endmodule\n")
    monkeypatch.setattr(command, "draw", lambda result: b"")
    return path


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, worst_ns: float, *options: str) -> int:
    monkeypatch.setattr(command, "report", lambda *_: result(worst_ns))
    return command.main(["--target", "nano", "-o", str(folder), *options])


def test_record_has_what_was_found_and_the_budget_never_rises(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, monkeypatch, 3.1234, "--record") == 0
    assert "recorded 240 MHz for nano" in capsys.readouterr().out
    (kept,) = json.loads(place.read_text()).values()
    assert set(kept) == set(RECORDED["nano"])
    assert (kept["mhz"], kept["worst_ns"], kept["budget_ns"]) == (240, 3.124, 3.2)
    assert (kept["ends"], kept["late_ends"], kept["allowed_ns"]) == (100, 7, 2.5)
    assert kept["path"] == (
        "3.12 ns, 5 LUTs, 1 carries: core.first -> core.second -> flip flop in core"
    )
    assert run(tmp_path, monkeypatch, 2.9, "--record") == 0  # faster: the budget falls
    assert json.loads(place.read_text())["nano"]["budget_ns"] == 2.9
    assert run(tmp_path, monkeypatch, 3.0, "--record") == 1  # slower: recorded, and an error
    kept = json.loads(place.read_text())["nano"]
    assert (kept["worst_ns"], kept["mhz"], kept["budget_ns"]) == (3.0, 250, 2.9)
    assert "has 3.00 ns, and its budget is 2.9" in capsys.readouterr().err
    assert run(tmp_path, monkeypatch, 3.84616, "--record") == 1  # 194.9997 MHz: rounded down
    assert json.loads(place.read_text())["nano"]["mhz"] == 194
    assert record.over_budget("nano", kept)  # what the test above looks at
    assert [path.name for path in tmp_path.glob(".clocks*")] == []


def test_without_record_the_clock_is_what_counts(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, monkeypatch, 3.1234) == 1
    assert "does not reach 300 MHz" in capsys.readouterr().err and place.read_text() == "{}"


@pytest.mark.parametrize(
    "fields, options, message",
    [
        ({"name": "mine"}, (), "--record is for presets, and target mine is none"),
        ({"queue_depth": 32}, (), "--record is for presets, and target nano is none"),
        ({}, ("--clock", "250"), "leave out --clock"),
    ],
)
def test_what_would_be_recorded_wrongly_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    fields: dict[str, object], options: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    path = tmp_path / "target.json"
    path.write_text(json.dumps(PRESETS["nano"].to_dict() | fields))
    assert command.main(["--target", str(path), "--record", *options]) == 2
    assert message in capsys.readouterr().err and place.read_text() == "{}"


def test_records_lie_beside_the_module_that_reads_them() -> None:
    assert RECORDS.samefile(Path(__file__).parents[2] / "spec" / "clocks.json")
