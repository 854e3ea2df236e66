"""`moesaic explore` and `moesaic estimate --targets` as a user calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import moesaic.cli.application  # noqa: F401  (its commands)
from moesaic.cli.console import app
from moesaic.compiler.estimate.models import estimate_onnx
from moesaic.spec.clocks import find_clock
from moesaic.spec.errors import UserError
from moesaic.spec.memory import sustained_bytes
from moesaic.spec.parts import PARTS
from moesaic.spec.presets import PRESETS, load_arch
from moesaic.spec.resource_model import target_resources

Model = Callable[..., None]


def call(*arguments: str | Path) -> None:
    """The command in this process, which has everything imported; errors are raised."""
    app([*map(str, arguments)], standalone_mode=False)


@pytest.fixture
def model(small_models: tuple[Path, list[str]]) -> Path:
    return small_models[0] / "seg.onnx"


@pytest.fixture
def explore(model: Path, tmp_path: Path) -> Model:
    """`explore` with a study of its own."""

    def run(*options: str | Path, part: str = "xck26", trials: int = 12) -> None:
        study = ("--storage", tmp_path / "journal", "--seed", "1")
        call("explore", model, "--part", part, "--trials", str(trials), *study, *options)

    return run


def test_the_target_that_is_written_fits_and_is_as_fast_as_said(
    explore: Model, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, picture, report = (tmp_path / name for name in ("t.json", "p.png", "r.json"))
    explore("-o", target, "--picture", picture, "--json", report)
    arch, told = load_arch(str(target)), json.loads(report.read_text())
    assert arch.to_dict() == told["chosen"]["arch"]
    cycles = estimate_onnx(model, arch)["default"].cycles
    assert cycles == told["chosen"]["scheduled_cycles"]["default"]
    assert cycles <= told["chosen"]["cycles"]["default"]
    assert told["chosen"]["resources"] == target_resources(arch, "xcup")
    capacity = PARTS["xck26"].capacity
    for kind, limit in (("lut", 0.75), ("dsp", 1.0), ("bram36", 0.85)):
        assert told["chosen"]["resources"][kind] <= limit * capacity[kind]
    assert told["trials"] == told["trials_of_this_run"] == 12
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "at 300 MHz (assumed)" in capsys.readouterr().out
    assert (told["clock_mhz"], told["clock_source"]) == (300, "assumed")
    assert told["chosen"]["dram_given_gb_s"] == pytest.approx(sustained_bytes(arch, 0.9) * 0.3)
    # What it wrote is a target for the other commands.
    call("estimate", model, "--target", target, "--json")
    assert json.loads(capsys.readouterr().out)["tasks"]["default"]["cycles"] == cycles


def test_a_second_run_goes_on(explore: Model, tmp_path: Path) -> None:
    explore("--json", tmp_path / "one.json", trials=5)
    explore("--json", tmp_path / "two.json", trials=3)
    told = json.loads((tmp_path / "two.json").read_text())
    assert (told["trials"], told["trials_of_this_run"]) == (8, 3)


def test_tables_are_never_cut(
    explore: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whatever the terminal's width; what is counted in pieces is a whole number."""
    monkeypatch.setenv("COLUMNS", "40")
    explore("--json", tmp_path / "one.json", trials=3)
    out = capsys.readouterr().out
    chosen = json.loads((tmp_path / "one.json").read_text())["chosen"]
    assert "…" not in out and f"{chosen['scheduled_cycles']['default']:,}" in out
    lut, dsp = (f"{round(chosen['resources'][kind]):,}" for kind in ("lut", "dsp"))
    assert f"{lut} of " in " ".join(out.split()) and f"{dsp} of " in " ".join(out.split())


def test_another_question_is_another_study(explore: Model, tmp_path: Path) -> None:
    explore("--json", tmp_path / "one.json", trials=3)
    explore("--json", tmp_path / "two.json", "--max-lut", "0.9", trials=3)
    assert json.loads((tmp_path / "two.json").read_text())["trials"] == 3


def test_a_part_comes_as_json(explore: Model, tmp_path: Path) -> None:
    part = tmp_path / "mine.json"
    sizes = {"lut": 100_000, "ff": 200_000, "dsp": 500, "bram36": 200}
    part.write_text(json.dumps({"family": "xc7", **sizes, "ports": 2, "port_bytes": 8}))
    explore("--json", tmp_path / "r.json", part=str(part))
    told = json.loads((tmp_path / "r.json").read_text())
    arch = told["chosen"]["arch"]
    assert told["part"] == "mine" and told["capacity"] == sizes
    assert not arch["packed"] and arch["weight_port_bytes"] == 8 and arch["weight_ports"] <= 2


ECP5 = {"family": "ecp5", "lut": 1, "ff": 1, "dsp": 1, "ebr": 1}


@pytest.mark.parametrize(
    "fields, message",
    [
        ([], "must be an object whose family is one of"),
        ({"family": "spartan"}, "must be an object whose family is one of"),
        ({"family": "ecp5", "lut": 1, "ff": 1, "dsp": 1}, "must give ebr as a whole number"),
        ({"family": "ecp5", "lut": 1, "ff": 1, "dsp": 1, "ebr": True}, "must give ebr as a whole"),
        ({"family": "ecp5", "slices": 1}, "has no field 'slices'"),
        ({**ECP5, "ports": 3}, "power of two"),
        ({**ECP5, "max_burst": 512}, "must give max_burst as a power of two, 2 to 256"),
        (
            {**ECP5, "port_bytes": 32, "max_burst": 256},
            "max_burst as at most 128 with port_bytes 32",
        ),
        ({**ECP5, "secure": 1}, "must give secure as true or false"),
    ],
)
def test_a_part_file_that_says_something_else_is_a_sentence(
    explore: Model, tmp_path: Path, fields: object, message: str
) -> None:
    part = tmp_path / "part.json"
    part.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=message):
        explore(part=str(part))


@pytest.mark.parametrize(
    "options, message",
    [
        (("--objective", "beauty"), "--objective must be one of latency, fps, area, not 'beauty'"),
        (("-o", "/proc/target.json"), "/proc/target.json cannot be written"),
        (("--max-lut", "0"), "--max-lut takes a share above 0"),
        (("--max-ms", "-1"), "--max-ms takes a number above 0"),
        (("--clock", "nan"), "--clock takes 1 to 2000 MHz"),
        (("--storage", "nosuch://place"), "storage nosuch://place cannot be used"),
        (("--max-ram", "0.01"), "needs .* of its block RAM, 1% are allowed"),
        (("--max-dsp", "0.001"), "needs .* of its multipliers, 0% are allowed"),
        (("--max-ms", "0.0001"), "within --max-ms: the fastest takes .* at 300 MHz .assumed."),
    ],
)
def test_what_cannot_be_is_a_sentence(
    explore: Model, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        explore(*options, trials=4)


def test_an_unknown_part_names_those_that_are_known(explore: Model) -> None:
    with pytest.raises(UserError, match="unknown part 'xcmars'.*xczu9eg.*json"):
        explore(part="xcmars")


def test_targets_side_by_side(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures of each target alone; one that does not fit says what is too small."""
    small = tmp_path / "small.json"
    fields = {**PRESETS["nano"].to_dict(), "name": "small", "residual_bytes": 64}
    small.write_text(json.dumps(fields))
    call("estimate", model, "--targets", f"nano,zcu102,{small}", "--json")
    told = json.loads(capsys.readouterr().out)
    nano, zcu102, refused = told["targets"]
    clock = find_clock(PRESETS["nano"])
    assert clock.source == "by make timing" and clock.mhz != 300  # or nothing below shows anything
    assert (nano["clock_mhz"], nano["clock_source"]) == (clock.mhz, clock.source)
    # All but the name and one memory are nano's: nobody has measured it.
    assert (refused["clock_mhz"], refused["clock_source"]) == (300, "assumed")
    alone = estimate_onnx(model, PRESETS["nano"])["default"]
    found = nano["tasks"]["default"]
    assert found["cycles"] == alone.cycles
    assert found["ms"] == pytest.approx(alone.cycles / clock.mhz / 1e3)
    assert found["frames_per_s"] * found["ms"] == pytest.approx(1e3)
    needed = (alone.weight_bytes + alone.data_bytes) / (found["ms"] * 1e6)
    assert found["dram_needed_gb_s"] == pytest.approx(needed)
    assert nano["dram_given_gb_s"] == pytest.approx((2 * 16 + 16) * clock.mhz / 1e3 * 0.9)
    assert nano["share"] is None and zcu102["part"] == "xczu9eg"
    assert zcu102["share"]["bram36"] == pytest.approx(684 / 912)
    assert not refused["fits"] and refused["reason"].startswith("its residual stream needs")
    call("estimate", model, "--targets", f"nano,{small}")
    shown = capsys.readouterr().out
    assert "clocks by make timing; * assumed" in shown and f" {clock.mhz:g} " in shown
    call("estimate", model, "--targets", f"zcu102,{small}", "--clock", "200")
    shown = capsys.readouterr().out
    assert "at 200 MHz (as given)" in shown and "small does not fit: its residual" in shown


def test_all_targets_of_a_bundle(small_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("estimate", small_bundle, "--targets", "all", "--json")
    told = json.loads(capsys.readouterr().out)
    assert [entry["target"] for entry in told["targets"]] == list(PRESETS)
    assert all(set(entry["tasks"]) == {"seg", "depth"} for entry in told["targets"])


@pytest.mark.parametrize(
    "options, message",
    [
        (("--targets", "nano,mars"), "unknown target 'mars'"),
        (("--targets", "nano,nano"), "--targets names nano twice"),
        (("--targets", "nano", "--target", "nano"), "give one of the two"),
        (("--targets", "nano", "--clock", "0"), "--clock takes 1 to 2000 MHz, not 0"),
        (("--target", "nano", "--clock", "nan"), "--clock takes 1 to 2000 MHz, not nan"),
    ],
)
def test_targets_that_make_no_sense_are_a_sentence(
    model: Path, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        call("estimate", model, *options)
