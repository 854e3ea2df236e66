"""The zoo's catalogue, what a trial makes of a command's end, and its tables.

Trials themselves are the zoo's own work.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console

from moesaic.models.zoo import __main__ as command
from moesaic.models.zoo import export, trial
from moesaic.models.zoo.catalogue import catalogue
from moesaic.models.zoo.mixtures import CHANNELS, EXPERTS, MIXTURES
from moesaic.models.zoo.page import counts, page
from moesaic.models.zoo.trial import STATES, Row, run_trial
from moesaic.spec.arch import ArchConfig

ENTRY = catalogue()["moe-softmax-first"]


def test_catalogue_is_large_and_its_names_are_names() -> None:
    found = catalogue()
    assert len(found) >= 150 and all(re.fullmatch(r"[\w.-]+", name) for name in found)
    assert {entry.source for entry in found.values()} == {"timm", "transformers", "here"}


def test_target_of_the_trials_is_one() -> None:
    assert ArchConfig.from_dict(dict(trial.ROOMY)).max_tokens == 2048


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_run_and_depend_on_their_input(name: str) -> None:
    torch.manual_seed(1)
    mixture = MIXTURES[name]().eval()
    x = torch.randn(1, 9, CHANNELS)
    with torch.no_grad():
        first, second = mixture(x), mixture(x + 0.1)
    assert first.shape == x.shape and not torch.equal(first, second)


def test_forms_of_a_mixture_are_the_same_function() -> None:
    torch.manual_seed(1)
    masked, where = MIXTURES["renormalised"](), MIXTURES["renormalised-where"]()
    where.load_state_dict(masked.state_dict())
    x = torch.randn(1, 9, CHANNELS)
    with torch.no_grad():
        torch.testing.assert_close(masked(x), where(x))
    assert EXPERTS == 8


def test_export_writes_a_model_and_samples(tmp_path: Path) -> None:
    assert export.main([ENTRY.name, str(tmp_path)]) == 0
    model = onnx.load(tmp_path / "model.onnx")
    samples = np.load(tmp_path / "samples.npz")
    assert [value.name for value in model.graph.input] == list(samples)
    assert samples["x"].shape == (export.SAMPLES, *ENTRY.shape[1:])


def ended(code: int, error: str = "", output: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, output, error)


@pytest.mark.parametrize(
    ("compiled", "state"),
    [
        (ended(2, "moesaic: model.onnx: no"), "refused"),
        (ended(2, "moesaic: the head was not recognised for what it is: in"), "misread"),
        (ended(1, "ValueError: x"), "crash"),
        (ended(2, "Traceback (most recent call last):\nKeyError"), "crash"),
    ],
)
def test_what_a_trial_makes_of_an_end(
    compiled: subprocess.CompletedProcess[str], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = iter([ended(0), compiled])
    monkeypatch.setattr(trial, "_command", lambda words: next(ends))
    row = run_trial(ENTRY)
    assert (row.state, row.why) == (state, compiled.stderr.splitlines()[-1])
    assert row.macs is None and row.name == ENTRY.name


def test_what_does_not_export_or_takes_too_long_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_command", lambda words: ended(1, "a\nno such model\n"))
    assert (run_trial(ENTRY).state, run_trial(ENTRY).why) == ("no export", "no such model")

    def slow(words: list[str]) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(words, 1)

    monkeypatch.setattr(trial, "_command", slow)
    assert run_trial(ENTRY).state == "too slow"


@pytest.mark.parametrize("host", [None, {"macs": 25}])
def test_a_good_trial_has_its_figures(
    host: dict[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"macs": 75, "tokens": 9, "cycles": 100, "sqnr_db": 30.0, "host": host}
    targets = [{"target": "nano", "fits": True}, {"target": "kv260", "fits": False}]
    outputs = [json.dumps({"tasks": {"default": task}}), json.dumps({"targets": targets})]
    ends = iter([ended(0), ended(0), *(ended(0, output=text) for text in outputs)])
    monkeypatch.setattr(trial, "_command", lambda words: next(ends))
    row = run_trial(ENTRY)
    assert (row.state, row.targets) == ("partitioned" if host else "whole", ("nano",))
    assert ("75.0%" in page([row])) == bool(host)


def test_tables_count_every_row() -> None:
    rows = [Row(f"n{i}", "a family", "here", state, "a | b") for i, state in enumerate(STATES)]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(counts(rows))
    assert f"all {len(STATES)}" in capture.get()
    text = page(rows)
    assert f"| all | {' | '.join('1' for _ in STATES)} |" in text and "a \\| b" in text


def test_a_library_that_is_missing_is_no_refusal_of_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.main(["-o", str(tmp_path), "--only", "deit_tiny"]) == 2
    assert "timm must be installed" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_rows_are_kept_and_bad_ones_end_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def fake(entry: object) -> Row:
        tried.append(entry.name)
        return Row(tried[-1], "f", "here", "crash" if "shared" in tried[-1] else "whole")

    monkeypatch.setattr(command, "run_trial", fake)
    words = ["-o", str(tmp_path), "--jobs", "1"]
    assert command.main([*words, "--only", "moe-switch"]) == 0
    assert command.main([*words, "--only", "moe-s[wh]"]) == 1
    assert sorted(tried) == ["moe-shared", "moe-shared-gated", "moe-switch"]
    assert command.main([*words, "--only", "moe-switch", "--again"]) == 1
    assert len(tried) == 4 and "all 3" in capsys.readouterr().out
