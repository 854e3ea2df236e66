"""Frames a second of targets on their boards: what is rated, and by what memory."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from moesaic.compiler.estimate import rating
from moesaic.compiler.estimate.models import estimate_graphs, shapes_of_onnx
from moesaic.compiler.estimate.rating import Rating, rate
from moesaic.compiler.estimate.reference import REFERENCES, Reference, reference_graph
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.schedule.options import first_schedule
from moesaic.models import config as models
from moesaic.models.config import M3ViTConfig
from moesaic.spec.boards import BOARDS, CARD_DRAM, dram_of
from moesaic.spec.clocks import find_clock
from moesaic.spec.memory import BOARD_SHARE, DEFAULT_MEMORY, Dram, board_share, sustained_bytes
from moesaic.spec.presets import PRESETS
from tests.documents import ROOT
from tests.e2e.conftest import make_models

README = ROOT / "README.md"
"""Has a table of what targets do on their boards."""


def config_of(model: Reference) -> M3ViTConfig:
    """The model that has such sizes."""
    return M3ViTConfig(
        height=model.height,
        width=model.width,
        patch=model.patch,
        dim=model.channels,
        depth=model.blocks,
        heads=model.heads,
        experts=model.experts,
        expert_hidden=model.expert_hidden,
        top_k=model.top_k,
        tasks=(("seg", model.outputs), ("depth", 1)),
    )


@pytest.mark.parametrize(("model", "preset"), list(zip(REFERENCES, ("tiny", "nano"), strict=True)))
def test_references_are_the_models_that_come_along(model: Reference, preset: str) -> None:
    assert config_of(model) == models.PRESETS[preset]


def test_a_reference_costs_what_its_file_does(tmp_path: Path) -> None:
    model = Reference(
        name="small", height=32, width=48, channels=48, blocks=2, experts=4, expert_hidden=24
    )
    config = dataclasses.replace(config_of(model), tasks=(("seg", model.outputs),))
    file = make_models(tmp_path, config, 0)[0].partition("=")[2]
    arch = PRESETS["nano"]

    def cycles(graphs: dict[str, object]) -> tuple[int, int, int]:
        found = estimate_graphs(
            graphs,  # type: ignore[arg-type]
            arch,
            image=ShapeImage(arch),
            schedules={"default": first_schedule(arch)},
        )["default"]
        return found.macs, found.weight_bytes, found.cycles

    exported = cycles({**shapes_of_onnx(file)})
    assert cycles({"default": reference_graph(model)}) == exported
    wider = dataclasses.replace(model, expert_hidden=40)
    assert cycles({"default": reference_graph(wider)}) != exported


def test_presets_of_boards_are_rated() -> None:
    found = {name: rate(arch) for name, arch in PRESETS.items()}
    assert {name for name, one in found.items() if one is None} == {"nano", "ecp5-85"}
    for name, one in found.items():
        if one is None:
            continue
        arch, clock = PRESETS[name], find_clock(PRESETS[name])
        assert one.clock == clock and one.dram == dram_of(arch)
        taken = clock.gigabytes_per_second(sustained_bytes(arch, one.share))
        assert taken <= BOARD_SHARE * one.dram.gigabytes_per_second * 1.0001
        assert one.frames_per_second == pytest.approx(clock.mhz * 1e6 / one.cycles)
    assert {name for name, one in found.items() if one and one.model == REFERENCES[1].name} == {
        "kv260", "pynq-z2",
    }  # fmt: skip
    slow = found["pynq-z2"]
    assert slow is not None and slow.dram.kind.startswith("DDR3") and slow.share < 0.5


def test_less_memory_is_fewer_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = PRESETS["pynq-z2"]
    usual = rate(arch)
    monkeypatch.setattr(rating, "dram_of", lambda arch: Dram("half", 525, 16))
    rate.cache_clear()
    half = rate(arch)
    rate.cache_clear()
    assert usual is not None and half is not None
    assert half.share == pytest.approx(usual.share / 2) and half.cycles > 1.2 * usual.cycles


def test_ports_take_no_more_than_figures_assume() -> None:
    arch = PRESETS["kv260"]
    clock = find_clock(arch).mhz
    assert board_share(arch, Dram("large", 2400, 1024), clock) == DEFAULT_MEMORY.bandwidth_share
    half = board_share(arch, Dram("small", 1200, 32), clock)
    assert half == pytest.approx(0.7 * 4.8e3 / clock / sustained_bytes(arch, 1.0))


def test_presets_are_rated_without_what_models_are_read_by() -> None:
    """`moesaic targets` is for those, too, who have installed the command alone."""
    hidden = "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'onnxruntime')));"
    code = f"{hidden} from moesaic.compiler.estimate.rating import rate"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_board_is_a_card() -> None:
    assert not {board.part for board in BOARDS.values()} & CARD_DRAM.keys()


def row_of(name: str, one: Rating) -> str:
    """How a document tells it."""
    clock = f"{one.clock.mhz:g} MHz, {'assumed' if one.clock.source == 'assumed' else 'by model'}"
    return (
        f"| `{name}` | {clock} | {one.dram} | {one.share:.2f} | {one.model} | {one.cycles:,}"
        f" | {one.frames_per_second:,.0f} |"
    )


def wrong(text: str) -> list[str]:
    """Rows that a document should have, and has not."""
    rated = ((name, rate(arch)) for name, arch in PRESETS.items())
    rows = [row_of(name, one) for name, one in rated if one is not None]
    return [row for row in rows if row not in text]


def test_the_readme_tells_what_the_cost_model_says() -> None:
    text = README.read_text()
    assert wrong(text) == []
    other = re.sub(r"(?m)^(\| `u280` .*) [\d,]+ \|$", r"\1 12 |", text)
    assert len(wrong(other)) == 1
