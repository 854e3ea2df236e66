"""Energy of frames by the model: what it is made of, and how it moves with what a frame does."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from moesaic.cli.energy_view import energy_line
from moesaic.spec import energy as model
from moesaic.spec.clocks import GIVEN, Clock
from moesaic.spec.energy import KINDS, Energy, frame_energy
from moesaic.spec.energy_dram import ASSUMED_DRAM, DRAM_CURRENTS, dram_figures
from moesaic.spec.energy_figures import (
    DEFAULT_TOGGLES,
    DSP_SCALES,
    LEAST_FACTOR,
    REPORTS,
    Figure,
    family_figures,
)
from moesaic.spec.memory import Dram
from moesaic.spec.parts import FAMILIES
from moesaic.spec.presets import PRESETS
from moesaic.spec.toggles import recorded_rates, unit_of

ZCU102, CLOCK = PRESETS["zcu102"], Clock(300.0, GIVEN)
BUSY = {"matrix": 250e3, "vector": 150e3, "stream": 280e3, "load": 2e3, "store": 1e3, "router": 500}
"""About those of a frame of M3ViT-T."""
FRAME: dict[str, Any] = {"cycles": 336e3, "busy": BUSY, "moved_bytes": 19e6}


def energy(arch: Any = ZCU102, clock: Clock = CLOCK, **changed: Any) -> Energy:
    found = frame_energy(arch, clock, **{**FRAME, **changed})
    assert found is not None
    return found


def test_figures_are_those_of_the_reports() -> None:
    mlp = next(report for report in REPORTS if "ozkanerbatuhan" in report.source)
    assert mlp.products and mlp.dsps == 192
    each = 1e12 * mlp.products / mlp.dsps / (mlp.mhz * 1e6)
    assert each == pytest.approx(9.83, abs=0.01)
    for family in FAMILIES:
        figures = family_figures(family)
        assert (figures is None) == (family not in {report.family for report in REPORTS})
        for name in () if figures is None else dataclasses.asdict(figures):
            figure: Figure = getattr(figures, name)
            low, typical, high = figure.band
            assert 0 < low < typical < high and figure.factor >= LEAST_FACTOR, (family, name)
    seven, ultra = family_figures("xc7"), family_figures("xcup")
    assert seven and ultra
    low, typical, high = seven.dsp.band
    assert low < each < high
    assert min(DSP_SCALES) < ultra.dsp.typical / typical < max(DSP_SCALES)
    alone = next(report for report in REPORTS if report.family == "xcup" and report.fabric)
    assert alone.fabric
    cell = 1e6 * alone.fabric / (alone.luts + alone.registers) / alone.mhz
    assert ultra.toggle.typical == pytest.approx(cell / DEFAULT_TOGGLES)


def test_dram_is_what_its_currents_say() -> None:
    chip = DRAM_CURRENTS["DDR4"]
    # 196 mA more to read and 181 to write than with a row open, at 1.2 V and 38.4 Gbit/s.
    assert chip.picojoules_per_bit == pytest.approx(1.2 * 188.5 / 38.4)
    per_byte, idle = dram_figures(ASSUMED_DRAM) or pytest.fail("unknown")
    assert per_byte.typical > 8 * chip.picojoules_per_bit
    assert idle.typical == pytest.approx(4 * chip.milliwatts)
    narrow = dram_figures(Dram("DDR4-2400", 2400, 16)) or pytest.fail("unknown")
    assert narrow[0] == per_byte and narrow[1].typical == pytest.approx(chip.milliwatts)
    assert dram_figures(Dram("HBM2", 1800, 1024)) is None


def test_parts_make_the_whole() -> None:
    found = energy()
    assert tuple(found.by_kind) == KINDS
    for number, total in enumerate(found.band):
        assert total == pytest.approx(sum(part[number] for part in found.by_kind.values()))
    plain = found.to_dict()
    assert plain["mj_low"] < plain["mj"] < plain["mj_high"]
    assert sum(plain["mj_of"].values()) == pytest.approx(plain["mj"])
    assert plain["watts"] == pytest.approx(plain["mj"] / (336e3 / 300e3))
    assert (plain["part"], plain["dram_assumed"]) == ("xczu9eg", False)


def test_published_designs_for_the_board_are_in_reach() -> None:
    """UbiMoE and CoQMoE give 11.5 and 9.8 W on a ZCU102, with 0.8 of the DSP blocks."""
    low, _, high = (mj / energy().milliseconds for mj in energy().band)
    assert low < 9.8 < 11.5 < high


@pytest.mark.parametrize(
    ("changed", "more"),
    [
        ({"moved_bytes": 20e6}, {"DRAM"}),
        ({"busy": {**BUSY, "matrix": 260e3}}, {"DSP", "logic", "memories"}),
        ({"busy": {**BUSY, "vector": 160e3}}, {"DSP", "logic", "memories"}),
        ({"busy": {**BUSY, "stream": 290e3}}, {"logic", "memories"}),
        ({"cycles": 350e3}, {"DSP", "logic", "clock", "DRAM", "static"}),
        ({"clock": Clock(150.0, GIVEN)}, {"DRAM", "static"}),
    ],
)
def test_more_of_a_thing_takes_more_of_its_kinds(changed: dict[str, Any], more: set[str]) -> None:
    before, after = energy().by_kind, energy(**changed).by_kind
    grown = {kind for kind in KINDS if after[kind][1] > before[kind][1] * (1 + 1e-9)}
    assert grown == more
    assert all(after[kind] == pytest.approx(before[kind]) for kind in set(KINDS) - more)


def test_bits_of_products_are_counted_in_dsp_blocks() -> None:
    """The array's blocks toggle as the RTL's did: joules of a product follow from them."""
    figures, rates = family_figures("xcup"), recorded_rates()["core.matrix.array.columns"]
    assert figures
    more = energy(busy={**BUSY, "matrix": 251e3}).by_kind["DSP"][1] - energy().by_kind["DSP"][1]
    of_array = 1e-9 * 2048 * 1e3 * figures.dsp.typical / DEFAULT_TOGGLES * (rates.busy - rates.idle)
    assert of_array == pytest.approx(more, rel=0.01)


def test_ultra_ram_is_counted_where_there_is_some() -> None:
    with_some = dataclasses.replace(ZCU102, device="xczu7ev-ffvc1156-2-e", ultra_ring=True)
    without = dataclasses.replace(with_some, ultra_ring=False)
    one, other = energy(with_some), energy(without)
    assert one.by_kind["memories"] != other.by_kind["memories"]
    assert one.by_kind["logic"] == other.by_kind["logic"]
    low, typical, high = one.by_kind["memories"]
    assert high / typical > LEAST_FACTOR  # what is assumed of it may be off by more


def test_nothing_is_said_where_nothing_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    assert frame_energy(PRESETS["ecp5-85"], CLOCK, **FRAME) is None
    assert "no energy" in energy_line(None)
    assert energy(PRESETS["pynq-z2"]).dram.startswith("2.1 GB/s (DDR3")
    assert energy(PRESETS["nano"]).dram_assumed
    monkeypatch.setattr(model, "dram_of", lambda arch: Dram("HBM2", 1800, 1024))
    assert frame_energy(ZCU102, CLOCK, **FRAME) is None


def test_the_line_says_what_it_is() -> None:
    figures = energy().to_dict()
    line = energy_line(figures)
    assert "by a model, nothing was measured" in line and "without the processing system" in line
    for name in ("mj", "mj_low", "mj_high"):
        assert f"{figures[name]:.3g}" in line
    assert figures["source"] == "modelled, not measured"
    largest = max(figures["mj_of"], key=figures["mj_of"].__getitem__)
    assert f"({largest} " in line


def test_every_block_has_a_unit_or_serves_all() -> None:
    units = {unit_of(block) for block in recorded_rates()}
    assert units == {"", *(unit for unit in BUSY)}
    assert unit_of("core.vector.lanes") == "vector" and unit_of("control") == ""
    assert math.isclose(recorded_rates()["control"].busy, recorded_rates()["control"].idle)
