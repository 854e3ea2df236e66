"""Clocks by which cycles become time: as given, recorded of presets, or assumed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from moesaic.spec import clocks
from moesaic.spec.clocks import ASSUMED, GIVEN, RECORDED, Clock, family_clock, find_clock
from moesaic.spec.errors import UserError
from moesaic.spec.parts import family_of
from moesaic.spec.presets import PRESETS, load_arch

FIELDS = {
    "mhz", "worst_ns", "budget_ns", "ends", "late_ends", "allowed_ns", "path", "verilog",
    "delays", "made_with",
}  # fmt: skip


def test_what_was_recorded_agrees_with_itself() -> None:
    records = clocks.recorded_clocks()
    assert "nano" in records
    for name, record in records.items():
        assert family_of(PRESETS[name].device) == "xcup" and set(record) == FIELDS
        assert record["mhz"] == math.floor(750 / record["worst_ns"]), name
        assert 0 <= record["late_ends"] <= record["ends"]
        assert (record["worst_ns"] > record["allowed_ns"]) == (record["late_ends"] > 0)
        assert float(record["path"].partition(" ns, ")[0]) == pytest.approx(
            record["worst_ns"], abs=0.006
        )
        assert len(record["verilog"]) == 64


@pytest.fixture
def one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if only nano's clock were recorded, with a figure that is nobody's."""
    path = tmp_path / "clocks.json"
    path.write_text(json.dumps({"nano": {"mhz": 123}}))
    monkeypatch.setattr(clocks, "RECORDS", path)
    clocks.recorded_clocks.cache_clear()
    yield
    clocks.recorded_clocks.cache_clear()


@pytest.mark.usefixtures("one_record")
def test_given_before_recorded_before_assumed(tmp_path: Path) -> None:
    nano = PRESETS["nano"]
    assert find_clock(nano, 250) == Clock(250, GIVEN)
    assert find_clock(nano) == Clock(123, RECORDED)
    assert find_clock(PRESETS["zcu102"]) == Clock(300, ASSUMED)
    assert find_clock(PRESETS["pynq-z2"]) == Clock(150, ASSUMED)
    assert family_clock("ecp5") == Clock(75, ASSUMED)
    assert family_clock("ecp5", 80.5) == Clock(80.5, GIVEN)


@pytest.mark.usefixtures("one_record")
def test_own_target_is_a_preset_only_if_all_of_it_is(tmp_path: Path) -> None:
    nano, path = PRESETS["nano"], tmp_path / "mine.json"

    def source(**changes: object) -> str:
        path.write_text(json.dumps({**nano.to_dict(), **changes}))
        return find_clock(load_arch(str(path))).source

    assert source() == RECORDED
    assert source(name="mine") == source(queue_depth=32) == source(device="xczu9eg") == ASSUMED


@pytest.mark.parametrize("given", [0.0, -5.0, 0.5, 2001.0, math.nan, math.inf])
def test_clock_out_of_bounds_is_refused(given: float) -> None:
    for find in (lambda: find_clock(PRESETS["nano"], given), lambda: family_clock("xc7", given)):
        with pytest.raises(UserError, match=f"--clock takes 1 to 2000 MHz, not {given:g}"):
            find()


def test_cycles_become_time_and_bytes_rates() -> None:
    clock = Clock(200, RECORDED)
    assert str(clock) == "200 MHz (by make timing)"
    assert clock.milliseconds(100_000) == pytest.approx(0.5)
    assert clock.gigabytes_per_second(48) == pytest.approx(9.6)
    # Half the clock: twice the time, and half of what the same cycles ask of DRAM.
    half = dataclasses.replace(clock, mhz=100)
    assert half.milliseconds(100_000) == 1 and half.gigabytes_per_second(5e5, 1e5) == 0.5
