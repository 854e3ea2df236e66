"""Ctrl-C at any time: one word, exit code 130, and nothing half-written."""

from __future__ import annotations

import runpy
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from moesaic.host import benchmark
from moesaic.sim import verilator
from tests.cli.here import moesaic_here

COMPILE = ("compile", "{models[0]}", "{models[1]}", "--target", "nano", "--calibrate", "{inputs}")
FRAME = ("{bundle}", "--task", "seg", "--input", "{inputs}", "--output", "{out}/o.npz")


def press_ctrl_c(*arguments: Any, **named: Any) -> None:
    """As a terminal's user does; workers of a parallel run ignore it, so not with their handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ((*COMPILE, "-o", "{out}/b"), "compiler.driver:load_graph"),
        ((*COMPILE, "-o", "{out}/b"), "compiler.driver:bundle_files"),
        ((*COMPILE, "-o", "{out}/b"), "compiler.package.place:_rename"),
        (("run", *FRAME), "host.torch_devices:CpuDevice.run"),
        (("run", *FRAME), "host.output_file:np.savez_compressed"),
        (("simulate", *FRAME, "--stats", "{out}/s.json"), "sim.provider:accelerator_verilog"),
        (("verify", "{bundle}", "--stats", "{out}/s.json"), "sim.provider:accelerator_verilog"),
        (("serve", "{bundle}", "--port", "0"), "host.torch_devices:CpuDevice.__init__"),
        (("estimate", "{bundle}"), "compiler.estimate.models:compile_task"),
        (
            ("accuracy", "{bundle}", "--samples", "{inputs}", "--json", "{out}/a.json"),
            "compiler.accuracy.bundle:analyse",
        ),
        (("inspect", "{bundle}"), "spec.bundle:read_folder"),
        (("targets",), "cli.compiling:show"),
    ],
)
def test_interrupted_command_leaves_nothing(
    words: tuple[str, ...], place: str, small_models: tuple[Path, list[str]], small_bundle: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    inputs = small_models[0] / "samples.npz"
    names = {"models": small_models[1], "inputs": inputs, "bundle": small_bundle, "out": tmp_path}
    module, _, name = place.partition(":")
    monkeypatch.setattr(f"moesaic.{module}.{name}", press_ctrl_c)
    done = moesaic_here(capsys, monkeypatch, *(word.format(**names) for word in words))
    assert done.code == 130
    assert done.err.splitlines()[-1] == "moesaic: interrupted" and "Traceback" not in done.err
    assert done.out == "" and not [*tmp_path.iterdir()]
    # Python waits for threads that are no daemons, so the command would not end.
    waited_for = [thread for thread in threading.enumerate() if not thread.daemon]
    assert waited_for == [threading.main_thread()]


def test_interrupted_benchmark_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "load_bundle", press_ctrl_c)
    with pytest.raises(SystemExit) as end:
        benchmark.main(["none"])
    assert end.value.code == 130
    assert capsys.readouterr().err == "moesaic benchmark: interrupted\n"


def test_compilers_that_wait_do_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a build is not waited for when one file fails, or Ctrl-C ends it."""
    begun: list[str] = []

    def run_tool(command: Any, folder: Path, what: str) -> str:
        begun.append(what)
        if len(begun) == 1:
            raise KeyboardInterrupt
        threading.Event().wait(0.2)
        return ""

    monkeypatch.setattr(verilator, "run_tool", run_tool)
    monkeypatch.setattr(verilator, "toolchain", lambda: type("T", (), {"compiler": "c++"}))
    sources = [tmp_path / f"{number}.cpp" for number in range(100)]
    with pytest.raises(KeyboardInterrupt):
        verilator.compile_objects(sources, tmp_path, lambda source: [])
    assert len(begun) < 50


@pytest.mark.parametrize("module", ["demo", "export"])
def test_interrupted_program_says_so(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("argparse.ArgumentParser.parse_args", press_ctrl_c)
    monkeypatch.delitem(sys.modules, f"moesaic.models.{module}", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"moesaic.models.{module}", run_name="__main__")
    assert end.value.code == 130 and capsys.readouterr().err == "interrupted\n"
