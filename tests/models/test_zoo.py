"""The zoo's catalogue, what a trial makes of a command's end, and its tables.

Trials of the libraries' architectures are the zoo's own work.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from moesaic.models.zoo import __main__ as command
from moesaic.models.zoo import export, keys, trial
from moesaic.models.zoo.catalogue import catalogue
from moesaic.models.zoo.entry import Entry
from moesaic.models.zoo.keys import row_key
from moesaic.models.zoo.mixtures import CHANNELS, EXPERTS, MIXTURES, Block, MixtureViT, mlp
from moesaic.models.zoo.page import counts, page
from moesaic.models.zoo.trial import STATES, Row, run_trial

ENTRY = catalogue()["moe-softmax-first"]


def test_catalogue_is_large_and_its_names_are_names() -> None:
    found = catalogue()
    assert len(found) >= 150 and all(re.fullmatch(r"[\w.-]+", name) for name in found)
    assert {entry.source for entry in found.values()} == {"timm", "transformers", "here"}


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


def run(entry: Entry, monkeypatch: pytest.MonkeyPatch, rtl: bool = False) -> Row:
    """A trial whose export happens in this process, of an entry that no catalogue has."""
    monkeypatch.setattr(export, "catalogue", lambda: {entry.name: entry})
    own = trial._command

    def command(words: list[str]) -> subprocess.CompletedProcess[str]:
        if words[2] != "moesaic.models.zoo.export":
            return own(words)
        try:
            return subprocess.CompletedProcess(words, export.main(words[3:]), "", "")
        except KeyError as error:
            return subprocess.CompletedProcess(words, 1, "", f"Traceback\nKeyError: {error}")

    with monkeypatch.context() as patch:
        patch.setattr(trial, "_command", command)
        return run_trial(entry, rtl)


class Encoder(nn.Module):
    """Blocks of attention and an MLP, as many as one likes."""

    def __init__(self, depth: int, classes: nn.Module) -> None:
        super().__init__()
        self.vit = MixtureViT(mlp())
        self.vit.block = nn.Sequential(*(Block(mlp()) for _ in range(depth)))
        self.vit.head = classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[1, 3, H, W] to [1, n]."""
        return self.vit(x)


def encoder(depth: int, classes: nn.Module | None = None, name: str = "an-encoder") -> Entry:
    head = classes or nn.Linear(CHANNELS, 10)
    build = partial(Encoder, depth, head)
    return Entry(name, "a family", "here", build, (1, 3, 64, 64), lambda: (2, 5))


def test_a_trial_has_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of five blocks, from a model of two, are those of a model of five."""
    few = run(encoder(2), monkeypatch, rtl=True)
    assert few.state == "whole" and few.host_macs == 0 and few.tokens == 17 and few.opset
    assert few.sqnr_db is not None and few.sqnr_db > 20 and few.key == row_key(encoder(2), True)
    assert few.rtl == "exact" and few.rtl_cycles is not None and few.rtl_cycles > 1000
    whole = replace(encoder(5), blocks=lambda: None, small=lambda: None)
    all_of_it = run(whole, monkeypatch, rtl=True)
    assert all_of_it.rtl == "no twin"
    assert (few.blocks, all_of_it.blocks) == (5, None) and few.full_macs == all_of_it.macs
    assert few.macs < few.full_macs and few.cycles.keys() == all_of_it.cycles.keys()
    for target, cycles in all_of_it.cycles.items():
        # The schedule is chosen for two blocks: the cost model may know a slightly better one.
        assert cycles <= few.cycles[target] <= 1.01 * cycles
    text = page([few])
    assert "100 %" in text and f"nano {few.cycles['nano']:,}" in text


def test_host_parts_refusals_and_broken_builds_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = nn.Sequential(nn.Linear(CHANNELS, 2048), nn.Tanh(), nn.Linear(2048, 2048))
    row = run(encoder(2, wide), monkeypatch)
    assert row.state == "partitioned" and row.host_macs and "100 %" not in page([row])
    behind = Encoder(2, nn.Linear(CHANNELS, 10))
    stem = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), behind)
    row = run(Entry("stem", "f", "here", lambda: stem, (1, 3, 64, 64)), monkeypatch)
    assert row.state == "partitioned" and row.host_macs and "100 %" not in page([row])
    convolution = Entry("conv", "f", "here", lambda: nn.Conv2d(3, 4, 3), (1, 3, 8, 8))
    row = run(convolution, monkeypatch)
    assert row.state == "refused" and row.why and "/tmp" not in row.why and row.cycles == {}

    def broken() -> nn.Module:
        raise KeyError("no such model")

    row = run(Entry("broken", "f", "here", broken), monkeypatch)
    assert (row.state, row.why) == ("no export", "KeyError: 'no such model'")


def ended(code: int, error: str = "", output: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, output, error)


@pytest.mark.parametrize(
    ("compiled", "state"),
    [
        (ended(2, "moesaic: model.onnx: no"), "refused"),
        (ended(2, "moesaic: the head was not recognised for what it is: in"), "wrong"),
        (ended(1, "ValueError: x"), "crash"),
        (ended(-11, ""), "crash"),
        (ended(2, 'Traceback (most recent call last):\n  File "a.py", line 3\nKeyError'), "crash"),
    ],
)
def test_what_a_trial_makes_of_an_end(
    compiled: subprocess.CompletedProcess[str], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_compile", lambda folder, target: ["", "", "compile"])
    own = trial._command
    monkeypatch.setattr(trial, "_command", lambda words: own(words) if words[0] else compiled)
    row = run(encoder(1), monkeypatch)
    assert row.state == state and row.macs is None and row.opset
    assert "File" in row.why if "File" in compiled.stderr else compiled.stderr[9:] in row.why


def test_a_twin_that_differs_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = {"bit_exact": False, "first_difference": "code 3", "cycles": [1]}
    ends = [ended(0), ended(1, output=json.dumps({"tasks": {"default": verdict}}))]
    monkeypatch.setattr(trial, "_command", lambda words: ends.pop(0))
    found = trial._twin("", tmp_path)
    assert found == {"state": "wrong", "why": "RTL: code 3", "rtl": "differs"}
    ends[:] = [ended(2, "moesaic: too large")]
    assert trial._twin("", tmp_path) == {"rtl": "refused: too large"}
    ends[:] = [ended(0), ended(1, "no simulator")]
    assert trial._twin("", tmp_path)["state"] == "crash"


def test_what_takes_too_long_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(words: list[str]) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(words, 1)

    monkeypatch.setattr(trial, "_command", slow)
    assert run_trial(ENTRY).state == "too slow"


def test_no_parameter_is_left_constant() -> None:
    """What begins as zeros or ones would hide what it does."""
    module = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16))
    nn.init.zeros_(module[1].bias)
    weight = module[1].weight.clone()
    tiny = nn.Parameter(1e-6 * torch.randn(16))
    module[0].bias = tiny
    export.enliven(module)
    assert all(float(part.detach().std()) > 0.005 for part in module.parameters())
    assert torch.equal(module[1].weight, weight) and 0.5 < float(module[0].weight.mean()) < 1.5


def test_keys_hang_on_what_figures_hang_on(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = catalogue()
    tiny, small = entries["vit_tiny_patch16_224"], entries["vit_small_patch16_224"]
    key = row_key(tiny, False)
    assert len({key, row_key(small, False), row_key(tiny, True), row_key(ENTRY, False)}) == 4
    versions = {"timm": "0"}
    monkeypatch.setattr(keys, "_libraries", lambda *names: str([versions.get(n) for n in names]))
    before = row_key(tiny, False), row_key(ENTRY, False)
    versions["timm"] = "1"
    assert row_key(tiny, False) != before[0] and row_key(ENTRY, False) == before[1]
    monkeypatch.setattr(keys, "_sources", lambda *places: "changed" if "hw" in places else "")
    still = row_key(tiny, False)
    monkeypatch.setattr(keys, "_sources", lambda *places: "again" if "hw" in places else "")
    assert row_key(tiny, False) == still


def test_keys_hang_on_every_file_that_writes_mixtures() -> None:
    """An entry from here is built by a module of the zoo, which its key must count."""
    entries = [entry for entry in catalogue().values() if entry.source == "here"]
    modules = {getattr(entry.build, "func", entry.build).__module__ for entry in entries}
    files = {module.removeprefix("moesaic.").replace(".", "/") + ".py" for module in modules}
    assert len(files) > 2 and files <= set(keys.MIXTURES)


def test_tables_count_every_row() -> None:
    rows = [Row(f"n{i}", "a family", "here", state, "a | b") for i, state in enumerate(STATES)]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(counts(rows))
    assert f"all {len(STATES)}" in capture.get()
    text = page(rows)
    assert f"| all | {' | '.join('1' for _ in STATES)} | {len(STATES)} |" in text
    assert "a \\| b" in text and "exact on the RTL" not in text
    assert "1 twins are exact" in page([replace(rows[0], rtl="exact")])


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

    def fake(entry: Entry, rtl: bool) -> Row:
        tried.append(entry.name)
        state = "crash" if "shared" in tried[-1] else "whole"
        return Row(tried[-1], "f", "here", state, key=row_key(entry, rtl))

    monkeypatch.setattr(command, "run_trial", fake)
    words = ["-o", str(tmp_path), "--jobs", "1"]
    assert command.main([*words, "--only", "moe-switch"]) == 0
    assert command.main([*words, "--only", "moe-s[wh]"]) == 1
    assert sorted(tried) == ["moe-shared", "moe-shared-gated", "moe-switch"]
    assert command.main([*words, "--only", "moe-switch", "--again"]) == 1
    assert len(tried) == 4 and "all 3" in capsys.readouterr().out
    # With the RTL it is another trial; its row then serves without, too.
    assert command.main([*words, "--only", "moe-switch", "--rtl"]) == 1 and len(tried) == 5
    assert command.main([*words, "--only", "moe-switch"]) == 1 and len(tried) == 5
    monkeypatch.setattr(command, "row_key", lambda entry, rtl: "of other sources")
    assert command.main([*words, "--only", "moe-switch", "--keep"]) == 1 and len(tried) == 5
    place = tmp_path / "page.md"
    assert command.main([*words, "--only", "moe-switch", "--page", str(place)]) == 1
    assert len(tried) == 6 and "`moe-switch`" in place.read_text()
