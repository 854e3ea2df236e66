"""Fuzzing that stays: a bounded run in `make test`, a long one by ``FUZZ_SECONDS``, counts printed.

Every fuzzer is a function from an example to the name of its outcome; it raises where something is
wrong, and hypothesis shrinks the example.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

Example = TypeVar("Example")


def fuzz(
    name: str,
    examples: SearchStrategy[Example],
    outcome: Callable[[Example], str],
    count: int,
) -> Counter[str]:
    """Try ``count`` examples, always the same ones; with ``FUZZ_SECONDS``, new ones for so long.

    Parameters
    ----------
    name
        What the printed counts begin with.
    outcome
        Says what became of an example, such as "refused" or "right"; raises on a finding.

    Returns
    -------
    How often each outcome was seen; the sum stands under "tried".
    """
    counts: Counter[str] = Counter()
    seconds = float(os.environ.get("FUZZ_SECONDS", 0))
    started, slowest = time.monotonic(), 0.0

    def attempt(example: Example) -> None:
        nonlocal slowest
        begin = time.monotonic()
        counts["tried"] += 1
        counts[outcome(example)] += 1
        slowest = max(slowest, time.monotonic() - begin)

    checks = list(HealthCheck)
    long = bool(seconds)
    while True:
        limits = settings(
            max_examples=count,
            deadline=None,
            database=None,
            derandomize=not long,
            suppress_health_check=checks,
            print_blob=True,
        )
        run = limits(given(examples)(attempt))
        if long:
            number = random.SystemRandom().getrandbits(32)
            print(f"{name}: seed {number}, {dict(counts)}", flush=True)
            run = seed(number)(run)
        run()
        if time.monotonic() - started >= seconds:
            break
    spent = time.monotonic() - started
    print(f"{name}: {dict(counts)}, slowest {slowest:.1f} s, {spent:.0f} s in all", flush=True)
    return counts
