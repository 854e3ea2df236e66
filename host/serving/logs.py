"""What a server says: each kind of line once in a while, with how often it would have been said."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

logger = logging.getLogger("moesaic.serving")
_SOURCES = ("moesaic.serving", "uvicorn.error", "asyncio")
_WINDOW_SECONDS = 60.0


@dataclass
class _Kind:
    """A line that was said."""

    record: logging.LogRecord
    since: float
    more: int = 0


class Folding(logging.Filter):
    """Lets the first line of a kind pass, and counts those like it until a window has passed.

    Lines are alike if they come from the same logger with the same text before its numbers are
    put in; exceptions, if they are of one type and were raised in the same place.

    Parameters
    ----------
    window_seconds
        How long a kind is silent.
    """

    def __init__(self, window_seconds: float = _WINDOW_SECONDS) -> None:
        super().__init__()
        self._window_seconds = window_seconds
        self._kinds: dict[tuple[object, ...], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is said."""
        if hasattr(record, "folded"):
            return True
        key = _key(record)
        if key in self._kinds:
            self._kinds[key].more += 1
            return False
        self._kinds[key] = _Kind(record, time.monotonic())
        return True

    def flush(self, end: bool = False) -> None:
        """Say how often the lines whose window has passed came again; at the end, all of them."""
        now = time.monotonic()
        for key, kind in list(self._kinds.items()):
            if not end and now - kind.since < self._window_seconds:
                continue
            del self._kinds[key]
            if kind.more:
                # It goes on, so the next of its kind are counted right away.
                self._kinds[key] = _Kind(kind.record, now)
                logging.getLogger(kind.record.name).log(
                    kind.record.levelno,
                    "%s (%d more times in %.0f s)",
                    _first_line(kind.record.getMessage()),
                    kind.more,
                    now - kind.since,
                    extra={
                        "folded": True,
                        "fields": {**getattr(kind.record, "fields", {}), "more_times": kind.more},
                    },
                )


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _key(record: logging.LogRecord) -> tuple[object, ...]:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return record.name, _first_line(str(record.msg))
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return record.name, type(error), place and (place.tb_frame.f_code, place.tb_lineno)


@contextmanager
def folded() -> Iterator[Folding]:
    """Fold what the server, uvicorn and asyncio say."""
    folding = Folding()
    for name in _SOURCES:
        logging.getLogger(name).addFilter(folding)
    try:
        yield folding
    finally:
        folding.flush(end=True)
        for name in _SOURCES:
            logging.getLogger(name).removeFilter(folding)
