"""Processes that write and read one bundle without end, forked from the test's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from moesaic.compiler.package import write_directory
from moesaic.spec.bundle import load_bundle
from moesaic.spec.errors import UserError


@dataclass(frozen=True)
class Worker:
    """A process, and what it says: a line for every time, ``done`` or what was refused."""

    pid: int
    says: BinaryIO


@contextlib.contextmanager
def forked(once: Callable[[int], object], rounds: int) -> Iterator[Worker]:
    """A process that calls ``once(0)``, ``once(1)``, ...; killed at the end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(reading)
            for number in range(rounds):
                try:
                    once(number)
                    line = "done"
                except UserError as error:
                    line = f"refused: {error}"
                os.write(writing, f"{line}\n".encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as says:
        try:
            yield Worker(pid, says)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
            os.waitpid(pid, 0)


def writer(place: Path, versions: Sequence[dict[str, bytes]]) -> Callable[[int], object]:
    """Writes one version after the other."""
    return lambda number: write_directory(place, versions[number % len(versions)])


def reader(place: Path) -> Callable[[int], object]:
    """Reads whatever is there."""
    return lambda number: load_bundle(place)
