"""Lines in a log from a step that takes long: what it does, since when, how long it still takes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

EVERY_SECONDS = 10.0
LEAST_SHARE = 0.02
"""Before this much is done, what is left is a guess."""


class Progress(Protocol):
    """Is told what is being done, and what share of it is over."""

    def __call__(self, stage: str, share: float = 0.0, /) -> object: ...


def say_nothing(stage: str, share: float = 0.0) -> None:
    """Progress of what nobody waits for."""


class Heartbeat:
    """Says every ten seconds that a step goes on; a step that is over sooner says nothing.

    Parameters
    ----------
    what
        The step.
    say
        Takes a line; standard error by default, since standard output belongs to the result.
    every
        Seconds between two lines.
    """

    def __init__(
        self, what: str, say: Callable[[str], None] | None = None, every: float = EVERY_SECONDS
    ) -> None:
        self.what, self.share = what, 0.0
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self._every = every
        self._started = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @property
    def seconds(self) -> float:
        """Since the step began."""
        return time.monotonic() - self._started

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(self._every):
            self._say(progress_line(self.what, self.seconds, self.share))


def progress_line(what: str, seconds: float, share: float = 0.0) -> str:
    """Return ``what``, the seconds so far, and those left at the same pace if ``share`` is done."""
    line = f"{what}: {seconds:.0f} s"
    if share >= LEAST_SHARE:
        line += f", {share:.0%}, about {seconds * (1 - share) / share:.0f} s left"
    return line
