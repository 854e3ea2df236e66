"""Progress of steps that a person waits for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from moesaic.spec.heartbeat import Heartbeat

_PATIENCE_SECONDS = 5.0


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(steps)``. A terminal gets a bar; a log gets a line every ten
    seconds, and one at the end of what took more than five.

    Everything goes to standard error: standard output belongs to the command's result.
    """
    console, done = Console(file=sys.stderr), 0
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
    with Heartbeat(description) as heartbeat:

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            heartbeat.share = done / total

        yield advance
    if heartbeat.seconds > _PATIENCE_SECONDS:
        print(f"{description}: took {heartbeat.seconds:.0f} s", file=sys.stderr)
