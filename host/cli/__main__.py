"""``python -m moesaic.host.cli``: the ``moesaic`` command."""

from moesaic.host.cli import main

main()
