"""Long work on many objects that reference counts free."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave cycles of objects alone meanwhile.

    Each trial of a schedule makes a program anew, without cycles. The collector goes through all
    that is alive again and again, and more often the longer programs are: a fifth of the time of
    one of 48 layers.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
