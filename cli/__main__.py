"""``python -m moesaic.cli``: the ``moesaic`` command."""

from moesaic.cli import main

main()
