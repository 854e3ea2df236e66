"""Runs the project's own commands as a user would, showing what is done and how long it takes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell has it: 128 + SIGINT."""


def interruptible(main: Callable[[], None]) -> None:
    """Run a program; Ctrl-C ends it with one word instead of a traceback."""
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def moesaic(*arguments: str | Path) -> list[str]:
    """Command line of the ``moesaic`` command in this environment."""
    return [sys.executable, "-m", "moesaic.cli", *map(str, arguments)]


def module(name: str, *arguments: str | Path) -> list[str]:
    """Command line of a module of the project."""
    return [sys.executable, "-m", f"moesaic.{name}", *map(str, arguments)]


def run_step(
    console: Console, title: str, command: list[str], allowed: tuple[int, ...] = ()
) -> str:
    """Run one command, show its title and duration, return its standard output.

    Raises
    ------
    SystemExit
        The command failed with an exit code that is not ``allowed``; its messages have been shown.
    """
    started = time.monotonic()
    with console.status(f"{title} ..."):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and done.returncode not in allowed:
        console.print(done.stdout + done.stderr, markup=False, highlight=False)
        raise SystemExit(f"{title} failed with exit code {done.returncode}")
    console.print(f"  {title:<66} {time.monotonic() - started:6.1f} s", highlight=False)
    return done.stdout
