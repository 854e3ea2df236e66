"""The command line. It ties compiler, gateware, simulator and runtime together.

Every command imports what it needs itself, so that a board without compiler or simulator can use
the others. A :class:`UserError` becomes one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import sys

from moesaic.cli import (  # noqa: F401
    compiling,
    estimating,
    exploring,
    measuring,
    reporting,
    running,
    simulating,
)
from moesaic.cli.console import app, console
from moesaic.spec.errors import UserError

_INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell has it: 128 + SIGINT. typer exits with it."""


def main() -> None:
    """Entry point: like the app, with errors as one sentence: the user's (2), a device's (1)."""
    from moesaic.host.driver import DeviceError
    from moesaic.host.transport import TransportError

    try:
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
