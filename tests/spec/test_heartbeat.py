"""Lines in a log while a step goes on."""

from __future__ import annotations

import threading

import pytest

from moesaic.spec.heartbeat import Heartbeat, progress_line


def test_long_step_says_how_far_it_is() -> None:
    lines: list[str] = []
    twice = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            twice.set()

    with Heartbeat("weaving", say, every=0.01) as heartbeat:
        heartbeat.share = 0.5
        assert twice.wait(10)
    assert all(line.startswith("weaving: 0 s") for line in lines)
    assert lines[1].endswith("50%, about 0 s left")
    count = len(lines)
    assert not threading.Event().wait(0.05) and len(lines) == count


def test_short_step_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Heartbeat("weaving"):
        pass
    assert capsys.readouterr() == ("", "")


def test_step_that_fails_falls_silent() -> None:
    lines: list[str] = []
    with pytest.raises(ZeroDivisionError), Heartbeat("weaving", lines.append, every=0.01):
        raise ZeroDivisionError
    count = len(lines)
    assert not threading.Event().wait(0.05) and len(lines) == count


@pytest.mark.parametrize(
    ("share", "line"),
    [(0.0, "a: 30 s"), (0.019, "a: 30 s"), (0.25, "a: 30 s, 25%, about 90 s left")],
)
def test_time_left_is_that_of_the_same_pace(share: float, line: str) -> None:
    assert progress_line("a", 30.0, share) == line
