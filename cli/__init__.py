"""The command line. It ties compiler, gateware, simulator and runtime together.

Every command imports what it needs itself, so that a board without compiler or simulator can use
the others. A :class:`UserError` becomes one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import sys

from moesaic.cli import compiling, estimating, measuring, running, simulating  # noqa: F401
from moesaic.cli.console import app, console
from moesaic.host.failures import DeviceError, TransportError
from moesaic.spec.errors import UserError
from moesaic.spec.extras import explained


def main() -> None:
    """Entry point: like the app, with errors as one sentence: the user's (2), a device's (1)."""
    try:
        with explained():
            app(standalone_mode=True)
    except (UserError, DeviceError, TransportError) as error:
        console.print(
            f"moesaic: {error}", style="red", soft_wrap=True, markup=False, highlight=False
        )
        sys.exit(error.exit_code if isinstance(error, UserError) else 1)
