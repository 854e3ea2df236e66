"""The stages of a long command: shown while they run, and how long each took."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.text import Text

from moesaic.spec.heartbeat import EVERY_SECONDS, Heartbeat

LOG_SECONDS = EVERY_SECONDS
TERMINAL_SECONDS = 0.5
"""Between two refreshes where a person watches."""
LEAST_SHARE, LEAST_SECONDS = 0.05, 0.5
"""Stages that took less, of the whole or at all, are not worth a word."""


class Stages:
    """Progress of a command: called with each stage's name, and with the share of it that is done.

    A terminal shows the stage and how long it still takes; a log gets a line every ten seconds.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._seconds: dict[str, float] = defaultdict(float)
        self._stage, self._began = "", time.monotonic()
        self._all, self._one = ExitStack(), ExitStack()

    def __enter__(self) -> Stages:
        if self._console.is_terminal:
            self._status = self._all.enter_context(self._console.status(""))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        self._all.close()

    def __call__(self, stage: str, share: float = 0.0) -> None:
        if stage != self._stage:
            self._end()
            self._stage, self._began = stage, time.monotonic()
            self._heartbeat = self._one.enter_context(self._beating(stage))
        self._heartbeat.share = share

    def _beating(self, stage: str) -> Heartbeat:
        if not self._console.is_terminal:
            return Heartbeat(stage, self._print, every=LOG_SECONDS)
        self._status.update(Text(stage))
        return Heartbeat(
            stage, lambda line: self._status.update(Text(line)), every=TERMINAL_SECONDS
        )

    def _end(self) -> None:
        self._one.close()
        if self._stage:
            self._seconds[self._stage] += time.monotonic() - self._began
            self._stage = ""

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def summary(self) -> str:
        """The whole time, and that of the longest stages."""
        whole = sum(self._seconds.values())
        longest = sorted(self._seconds.items(), key=lambda pair: -pair[1])
        least = max(LEAST_SHARE * whole, LEAST_SECONDS)
        parts = [f"{name} {took:.0f}" for name, took in longest if took > least]
        return f"{whole:.0f} s" + (f" ({', '.join(parts)})" if len(parts) > 1 else "")
