"""All commands together, and their errors as one sentence."""

from __future__ import annotations

import sys

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
    try:
        with explained():
            app(prog_name="moesaic", standalone_mode=True)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            console.print("moesaic: interrupted", style="red")
        raise
    except (UserError, DeviceError, TransportError) as error:
        console.print(
            f"moesaic: {error}", style="red", soft_wrap=True, markup=False, highlight=False
        )
        sys.exit(error.exit_code if isinstance(error, UserError) else 1)
