"""`moesaic targets`: what a target file begins with, and what an editor knows of it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from moesaic.cli.targets_view import beyond_boards, targets_report
from moesaic.compiler.estimate.rating import rate
from moesaic.compiler.estimate.targets import TargetEstimate
from moesaic.spec.arch import ArchConfig
from moesaic.spec.arch_schema import arch_schema
from moesaic.spec.boards import dram_of
from moesaic.spec.clocks import find_clock
from moesaic.spec.errors import UserError
from moesaic.spec.memory import sustained_bytes
from moesaic.spec.presets import PRESETS, load_arch
from tests.cli.here import moesaic_here


def breaks(schema: dict[str, Any], value: dict[str, Any]) -> list[str]:
    """Fields that break the schema, by the keywords that it uses."""
    types = {"string": str, "boolean": bool, "integer": int}
    wrong = [name for name in schema["required"] if name not in value]
    for name, item in value.items():
        rule = schema["properties"].get(name)
        if rule is None or type(item) is not types[rule["type"]]:
            wrong.append(name)
        elif "enum" in rule and item not in rule["enum"]:
            wrong.append(name)
        elif not rule.get("minimum", item) <= item <= rule.get("maximum", item):
            wrong.append(name)
        elif "pattern" in rule and not re.search(rule["pattern"], item):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("name", PRESETS)
def test_shown_preset_is_a_target_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = moesaic_here(capsys, monkeypatch, "targets", "--show", name)
    (tmp_path / "mine.json").write_text(done.out)
    assert done.code == 0 and load_arch(str(tmp_path / "mine.json")) == PRESETS[name]
    assert breaks(arch_schema(), json.loads(done.out)) == []


def test_cycles_beyond_what_a_board_has_are_named() -> None:
    """With the share of its ports' peak at which 70 % of the board's DRAM is sustained."""
    arch = PRESETS["zcu102"]
    shown = {share: beyond_boards(targets_report([TargetEstimate(arch, {})], None, share))
             for share in (0.9, 0.7)}  # fmt: skip
    (line,) = shown[0.9]
    dram, clock = dram_of(arch), find_clock(arch)
    assert dram and line.startswith("zcu102: its board's DRAM has 19.2 GB/s at its peak")
    share = float(re.search(r"70% of that peak is --bandwidth ([\d.]+)$", line)[1])  # type: ignore[index]
    given = clock.gigabytes_per_second(sustained_bytes(arch, share))
    assert given == pytest.approx(0.7 * dram.gigabytes_per_second, rel=0.01)
    assert not shown[0.7], "16.9 GB/s are less than the board's peak"
    for result in (TargetEstimate(arch, {}, "too large"), TargetEstimate(PRESETS["nano"], {})):
        assert not beyond_boards(targets_report([result], None, 0.9))


def test_unknown_preset_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = moesaic_here(capsys, monkeypatch, "targets", "--show", "nanno")
    assert done.code == 2 and "unknown target 'nanno'" in done.err


def test_schema_has_every_field_and_refuses_what_the_configuration_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = json.loads(moesaic_here(capsys, monkeypatch, "targets", "--schema").out)
    assert list(schema["properties"]) == [field.name for field in dataclasses.fields(ArchConfig)]
    assert all(len(rule["description"]) > 10 for rule in schema["properties"].values())
    good = PRESETS["nano"].to_dict()
    for name in good:
        for bad in (None, -1, 17, "a b/", 1 << 40):
            changed = {**good, name: bad}
            if breaks(schema, changed):
                with pytest.raises(UserError):
                    ArchConfig.from_dict(changed)
    for name, changed in (("depth", 17), ("depth", 256), ("packed", 1), ("name", ""), ("dpeth", 1)):
        assert breaks(schema, {**good, name: changed}) == [name]


def test_all_missing_fields_and_the_file_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = PRESETS["nano"].to_dict()
    missing = ["depth", "lanes", "ring_bytes"]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({k: v for k, v in fields.items() if k not in missing}))
    words = ("estimate", "none.onnx", "--target", path)
    done = moesaic_here(capsys, monkeypatch, *words)
    assert done.code == 2 and f"target file {path}" in done.err
    assert "has no depth, lanes, ring_bytes; begin with what `moesaic targets --show" in done.err
    path.write_text(json.dumps({**fields, "ring_byte": 3}))
    done = moesaic_here(capsys, monkeypatch, *words)
    assert "no field 'ring_byte'; did you mean 'ring_bytes'?" in done.err


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("words", [("targets",), ("inspect",), ("estimate",)])
def test_tables_are_never_cut(
    width: int, words: tuple[str, ...], small_bundle: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(width))
    words = words if words == ("targets",) else (*words, str(small_bundle))
    done = moesaic_here(capsys, monkeypatch, *words)
    assert done.code == 0 and "…" not in done.out
    wanted = {
        "targets": ["zcu102-lite", "64x64 packed", "4 x 128 bit", "xczu9eg-ffvb1156-2-e"],
        "inspect": ["image 1x3x32x32", "depth 1x1x32x32", "instructions", "SQNR dB"],
        "estimate": ["utilisation", "array busy", "weight KB"],
    }[words[0]]
    assert [text for text in wanted if text not in done.out] == []


@pytest.mark.parametrize("width", [40, 80])
def test_terminal_folds_and_loses_nothing(width: int) -> None:
    """Every character of every cell is there, whatever the terminal's width."""
    import io

    from rich.console import Console
    from rich.table import Table

    from moesaic.cli.console import show

    table = Table("one", "two")
    table.add_row("a" * 60 + " " + "b" * 50, "c" * 30)
    text = io.StringIO()
    show(table, Console(file=text, force_terminal=True, color_system=None, width=width))
    assert [text.getvalue().count(letter) for letter in "abc"] == [60, 50, 30]
    assert "…" not in text.getvalue()


def test_version_and_completion(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import metadata

    done = moesaic_here(capsys, monkeypatch, "--version")
    assert (done.code, done.out) == (0, f"moesaic {metadata.version('moesaic')}\n")
    monkeypatch.setenv("_MOESAIC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "moesaic sim")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert moesaic_here(capsys, monkeypatch).out.strip() == "simulate"


def test_clock_and_dram_of_the_board_are_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = moesaic_here(capsys, monkeypatch, "targets").out.splitlines()
    for name, arch in PRESETS.items():
        (line,) = [line for line in lines if re.match(rf"\W*{name} ", line)]
        assert str(find_clock(arch)) in line and str(dram_of(arch) or "of no board") in line
        rating = rate(arch)
        assert any("frames/s" in head for head in lines[:4]) and str(rating or "-") in line
    assert "19.2 GB/s (DDR4-2400, 64 bit)" in str(dram_of(PRESETS["zcu102"]))
    assert dram_of(PRESETS["nano"]) is None
