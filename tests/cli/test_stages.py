"""Progress of long commands."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from moesaic.cli import stages as module
from moesaic.cli.simulating import _show_cycles
from moesaic.cli.stages import Stages


def log() -> Console:
    return Console(file=io.StringIO(), width=40)


def test_log_hears_of_long_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_SECONDS", 0.05)
    console = log()
    with Stages(console) as stages:
        stages("a short one")
        stages("reading [bold] names that are longer than one line of this console is wide")
        stages("reading [bold] names that are longer than one line of this console is wide", 0.5)
        time.sleep(0.2)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines and all(line.startswith("reading [bold] names that") for line in lines)
    assert "50%" in lines[-1]


@pytest.mark.parametrize(
    ("seconds", "summary"),
    [
        ({"long": 8.0, "nothing": 0.1, "too": 1.0}, "9 s (long 8, too 1)"),
        ({"long": 40.0, "too": 10.0, "little": 1.0}, "51 s (long 40, too 10)"),
        ({"one": 0.4, "two": 0.4, "three": 0.4}, "1 s"),  # all would be 0
    ],
)
def test_summary_names_what_took_long(
    seconds: dict[str, float], summary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with Stages(log()) as stages:
        for name, took in seconds.items():
            stages(name)
            now += took
    assert stages.summary() == summary


def test_terminal_shows_the_stage() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with Stages(console) as stages:
        stages("weaving")
        time.sleep(0.3)
    assert "weaving" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("expected", "shown"), [(1000, "simulating, about 1,000 cycles"), (0, "")])
def test_cycles_become_a_share_of_those_expected(expected: int, shown: str) -> None:
    """What the cost model has not said has no share, and more than it said is all of it."""
    seen: list[tuple[str, float]] = []
    advance = _show_cycles(lambda *said: seen.append(said), "simulating", expected)
    for cycles in (250, 250, 1000):
        advance(cycles)
    assert {stage for stage, _ in seen} == {shown or "simulating"}
    assert [share for _, share in seen] == ([0.25, 0.5, 1.0] if expected else [0.0, 0.0, 0.0])
