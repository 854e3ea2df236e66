"""Progress of steps that a person waits for."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_PATIENCE_SECONDS = 5.0


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(steps)``. A terminal gets a bar; a log gets one line, after five seconds.

    Everything goes to standard error: standard output belongs to the command's result.
    """
    console = Console(file=sys.stderr)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda steps: bar.advance(task, steps)
        return
    note = threading.Timer(_PATIENCE_SECONDS, lambda: print(f"{description} ...", file=sys.stderr))
    note.daemon = True
    started = time.monotonic()
    note.start()
    try:
        yield lambda steps: None
    finally:
        note.cancel()
        seconds = time.monotonic() - started
        if seconds > _PATIENCE_SECONDS:
            print(f"{description}: {seconds:.0f} s", file=sys.stderr)
