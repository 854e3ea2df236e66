"""All commands together, and their errors as one sentence."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from moesaic.cli import (  # noqa: F401
    compiling,
    estimating,
    exploring,
    measuring,
    reporting,
    running,
    serving,
    simulating,
)
from moesaic.cli.console import app, console
from moesaic.host.failures import DeviceError, TransportError
from moesaic.spec.errors import UserError
from moesaic.spec.extras import explained

_INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell has it: 128 + SIGINT. typer exits with it."""


def run() -> None:
    """Like the app, with errors as one sentence: the user's (2), a device's (1)."""
    for stream in (sys.stdout, sys.stderr):
        # A name may have letters that the terminal's encoding has not, or be in none.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with explained(), _written():
            app(prog_name="moesaic", standalone_mode=True)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            console.print("moesaic: interrupted", style="red")
        raise
    except (UserError, DeviceError, TransportError) as error:
        console.print(f"moesaic: {error}", style="red", soft_wrap=True, highlight=False)
        sys.exit(error.exit_code if isinstance(error, UserError) else 1)


@contextmanager
def _written() -> Iterator[None]:
    """Notice what could not be written to standard output here, and not when the interpreter ends.

    Raises
    ------
    UserError
        It takes no more. A reader that has seen enough (``| head``) is told nothing.
    """
    try:
        yield
    except OSError:
        _write("\n")  # fails again if it was this one
        raise
    finally:
        _write("")


def _write(text: str) -> None:
    try:
        if sys.stdout is not None:
            print(end=text, flush=True)
    except OSError as error:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())  # for what is still in the buffer
        if error.errno == errno.EPIPE:
            sys.exit(1)  # as typer does
        raise UserError(f"standard output cannot be written: {error.strerror}") from None
