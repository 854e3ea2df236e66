"""One thread for each product, and what can be done side by side on all cores.

Threads of one product wait for one another without pause: on a machine that has other work it takes
many times as long with two of them as with one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from threadpoolctl import threadpool_limits

from moesaic.spec.torch_threads import torch_threads

MOST_THREADS = 8
"""Side by side, whatever the number of cores: each has its own copies of all frames."""
_limited = threading.Lock()
"""Held while numpy has one thread."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, a product of torch or numpy is computed by the thread that asks for it.

    Results do not depend on the number of cores, then: of floats the last bit would. numpy's number
    is that of the whole process, and has to be restored by the thread that has set it: the first
    that enters, when it leaves.
    """
    alone = _limited.acquire(blocking=False)
    try:
        with torch_threads(1), threadpool_limits(1, "blas") if alone else nullcontext():
            yield
    finally:
        if alone:
            _limited.release()


def map_on_cores(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``function`` of every item, in their order, on as many threads as this process has cores, at
    most :data:`MOST_THREADS`.

    An error of an item is raised in its place, and the items that nobody has begun are left.
    """

    def alone(item: Item) -> Result:
        with torch_threads(1):
            return function(item)

    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), MOST_THREADS)) as pool:
        yield from pool.map(alone, items)
