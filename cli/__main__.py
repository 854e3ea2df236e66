"""``moesaic``, ``python -m moesaic.cli``: the command, or what it lacks."""

from __future__ import annotations

import sys

from moesaic.spec.errors import UserError
from moesaic.spec.extras import explained


def main() -> None:
    """Run the command; a runtime that was installed alone has none."""
    try:
        with explained():
            from moesaic.cli import main as run
    except UserError as error:
        print(f"moesaic: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    run()


if __name__ == "__main__":
    main()
