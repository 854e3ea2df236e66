"""A bad target given to anything that takes one: exit code 2, one sentence, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from moesaic.hw import generate
from moesaic.hw.resources import __main__ as resources
from moesaic.sim import build
from moesaic.spec.presets import PRESETS

from .conftest import moesaic

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "moesaic.hw.generate": generate.main,
    "moesaic.sim.build": build.main,
    "moesaic.hw.resources": resources.main,
}


def _fields(**changes: object) -> str:
    return json.dumps({**PRESETS["nano"].to_dict(), **changes})


FILES = {
    "no JSON": "depth=16",
    "brackets": "[" * 60_000,
    "many brackets": "[" * 200_000,
    "no object": "[]",
    "incomplete": '{"name": "mine"}',
    "unknown field": _fields(colour=1),
    "no power of two": _fields(depth=24),
    "boolean": _fields(queue_depth=True),
    "too many ports": _fields(weight_ports=16, ring_read_bytes=256),
    "petabytes": _fields(ring_bytes=1 << 50),
    "path as a name": _fields(name="../../mine"),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_bad_file(
    program: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content)
    output = tmp_path / "out"
    words = [] if program == "moesaic.sim.build" else ["-o", str(output)]
    assert PROGRAMS[program](["--target", str(path), *words]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"error: target file {path}")
    assert err.count("\n") == 1 and len(err) < 400
    assert not output.exists()


@pytest.mark.parametrize("program", PROGRAMS)
def test_process_ends_without_a_traceback(program: str, tmp_path: Path) -> None:
    words = [] if program == "moesaic.sim.build" else ["-o", str(tmp_path / "out")]
    for target in ("mars", str(tmp_path / "absent.json"), ""):
        done = subprocess.run(
            [sys.executable, "-m", program, "--target", target, *words],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
        assert done.stderr.count("\n") == 1 and not done.stdout
    assert not list(tmp_path.iterdir())


def test_output_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "cached_verilog", lambda arch: "module top; endmodule\n")
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert generate.main(["--target", "nano", "-o", str(blocked)]) == 2
    assert f"output folder {blocked} cannot be written" in capsys.readouterr().err


def test_targets_command_lists_the_presets_and_refuses_words() -> None:
    done = moesaic("targets", "--json")
    assert done.code == 0
    listed = json.loads(done.out)
    assert {name for name in PRESETS if name in json.dumps(listed)} == set(PRESETS)
    done = moesaic("targets", "mars")
    assert done.code == 2 and "Traceback" not in done.err + done.out


@pytest.mark.parametrize("target", ["verilog", "sim", "resources"])
def test_make_passes_the_refusal_on(target: str) -> None:
    done = subprocess.run(
        ["make", target, "TARGET=mars; touch hit"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2  # make's own, for any failure
    assert "error: unknown target 'mars; touch hit'; use one of ecp5-85, kv260" in done.stderr
    assert "Traceback" not in done.stderr and not (ROOT / "hit").exists()


def test_make_names_the_folder_by_the_file(tmp_path: Path) -> None:
    target = tmp_path / "mine.json"
    done = subprocess.run(
        ["make", "-n", "verilog", f"TARGET={target}"], cwd=ROOT, capture_output=True, text=True
    )
    assert f"--target '{target}' -o 'build/rtl/mine'" in done.stdout
