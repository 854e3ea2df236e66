"""The command line. It ties compiler, gateware, simulator and runtime together.

Every command imports what it needs itself, so that a board without compiler or simulator can use
the others. A :class:`UserError` becomes one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import sys

from moesaic.spec.errors import UserError
from moesaic.spec.extras import explained


def main() -> None:
    """Entry point; a runtime that was installed alone has no commands, and says so."""
    try:
        with explained():
            from moesaic.cli.application import run
    except UserError as error:
        print(f"moesaic: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    run()
