"""How many threads torch computes with."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

LOADED_BY = os.getpid()
"""The process that OpenMP's threads are of: they do not survive a fork, and a child waits for
them."""
_lock = threading.Lock()
_inside = 0
_before = 1
_own = threading.local()
"""``count`` of the innermost that a thread is inside."""


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside, products of the calling thread are computed by ``count`` threads.

    A thread that has not used torch yet takes over what another one has set last, so the program's
    number is kept by the first that enters, and set again by each that leaves; or that of the
    enclosing one. Integers do not
    depend on it, being exact; of floats the last bit may.
    """
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = torch.get_num_threads()
        _inside += 1
        outer = getattr(_own, "count", None)
        _own.count = count
        torch.get_num_threads()  # takes over now what would overwrite the number at the first use
        torch.set_num_threads(count)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            _own.count = outer
            torch.set_num_threads(_before if outer is None else outer)
