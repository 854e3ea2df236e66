"""Files that a command writes: refused before the work if they cannot be, never half-written."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.errors import UserError
from moesaic.spec.staging import Stage, keep_elsewhere

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; boards have 3.10


class OutputFile:
    """A file that will be written. A context: one beside it is held from the beginning.

    A link is written through. If it cannot be put in its place in the end, what should have been
    in it is kept in the folder for temporary files, and the message says where.

    Parameters
    ----------
    path
        Where it will be; missing folders are made.

    Raises
    ------
    UserError
        Nothing can be written there; also from the methods that write.
    """

    def __init__(self, path: Path) -> None:
        self._named = path
        try:
            self._target = Path(os.path.realpath(path))
            self._check()
            self._stage = Stage(self._target.parent, folder=False)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise self._refusal(error) from error
        try:
            self._check()  # with the parent there, also of the name
        except OSError as error:
            self._stage.close()
            raise self._refusal(error) from error

    def _check(self) -> None:
        try:
            mode = os.lstat(self._target).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(mode):
            raise UserError(f"{self._named} cannot be written: it is no plain file; name another")

    def _refusal(self, error: Exception) -> UserError:
        reason = getattr(error, "strerror", None) or error
        return UserError(f"{self._named} cannot be written: {reason}; name another place")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stage.close()

    def write_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write an ``.npz``."""

        def write(file: Any) -> None:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

        self._write(write)

    def write_bytes(self, data: bytes) -> None:
        """Write data as they are."""
        self._write(lambda file: file.write(data))

    def write_json(self, value: Any, indent: int | None = 1) -> None:
        """Write a JSON text."""
        self.write_bytes(json.dumps(value, indent=indent).encode())

    def _write(self, write: Any) -> None:
        try:
            with open(self._stage.descriptor, "wb", closefd=False) as file:
                write(file)
            os.replace(self._stage.path, self._target)
            self._stage.placed()
        except OSError as error:

            def rescue(path: Path) -> None:
                with open(path, "wb") as file:
                    write(file)

            kept = keep_elsewhere(self._target.name, rescue)
            raise UserError(f"{self._refusal(error)}; {kept}") from error


def write_all(*writes: Callable[[], None]) -> None:
    """Write several files: what becomes of one is no reason to lose the others.

    Raises
    ------
    UserError
        Of those that could not be written, all in one sentence.
    """
    refusals = []
    for write in writes:
        try:
            write()
        except UserError as error:
            refusals.append(error)
    if refusals:
        raise UserError("; ".join(map(str, refusals))) from refusals[0]


def check_writable(path: Path) -> None:
    """Refuse a place where somebody else is to write a file.

    Raises
    ------
    UserError
        Nothing can be written there.
    """
    with OutputFile(path):
        pass


def check_apart(bundle: Path, read: list[Path], *written: Path | None) -> None:
    """Refuse to write what is read, into the bundle, or one file twice.

    Raises
    ------
    UserError
        A file of ``written`` is one of ``read``, lies in ``bundle``, or is named twice.
    """
    taken = [path.resolve() for path in read]
    for path in filter(None, written):
        place = path.resolve()
        if place in taken or bundle.resolve() in (place, *place.parents):
            raise UserError(f"{path} cannot be written: it is read, or written twice; name another")
        taken.append(place)
