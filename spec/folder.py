"""Plain files of a folder that others may replace meanwhile.

A folder is opened once and its files are read relative to it, so that no two versions mix. While it
is read it is locked, and who has replaced it waits with removing the old one.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from moesaic.spec.errors import UserError
from moesaic.spec.staging import PREFIX, is_at, try_lock

_TRIES = 200
_POLL_SECONDS = 0.005
_Read = TypeVar("_Read")


class Folder:
    """A folder that is open.

    Parameters
    ----------
    path
        Where it is.
    descriptor
        Of the open folder; the caller closes it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    def read(self, name: str, most_bytes: int) -> bytes:
        """Contents of a plain file that lies in the folder itself.

        Links, pipes and devices are refused before anything is read of them.

        Raises
        ------
        UserError
            It is missing, no plain file, or longer than ``most_bytes``.
        """
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise UserError(f"{self.path} names a file outside of it: {name!r}")
        # A pipe that nobody writes to would block the opening.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
            with open(descriptor, "rb") as file:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise UserError(f"{name} of {self.path} must be a plain file")
                if found.st_size > most_bytes:
                    raise UserError(
                        f"{name} of {self.path} has {found.st_size} bytes, more than the"
                        f" {most_bytes} that it may have"
                    )
                return file.read(found.st_size)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{name} of {self.path} cannot be read: {reason}") from error


def read_folder(path: Path, read: Callable[[Folder], _Read]) -> _Read:
    """Return ``read(folder)`` of one version of a folder.

    Raises
    ------
    UserError
        There is no such folder, or what ``read`` raises.
    """
    for last in [False] * (_TRIES - 1) + [True]:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and not last and _is_being_replaced(path):
                time.sleep(_POLL_SECONDS)
                continue
            reason = getattr(error, "strerror", None) or error
            if isinstance(error, NotADirectoryError):
                reason = "it is no folder; a bundle is one, as `moesaic compile` makes it"
            raise UserError(f"{path} cannot be opened: {reason}") from error
        try:
            if not _hold(descriptor, path) and not last:
                continue
            return read(Folder(path, descriptor))
        except UserError:
            # Without locks, files of an old version may go while they are read.
            if last or is_at(descriptor, path):
                raise
        finally:
            os.close(descriptor)
    raise AssertionError("the last try returns or raises")


def _hold(descriptor: int, path: Path) -> bool:
    """Lock a folder against its removal; False if another one has taken its place."""
    with contextlib.suppress(OSError):  # a file system without locks
        if not try_lock(descriptor, exclusive=False):
            time.sleep(_POLL_SECONDS)
            return False
    return is_at(descriptor, path)


def _is_being_replaced(path: Path) -> bool:
    """Whether a writer is at work beside it: where folders cannot be exchanged, there is a gap."""
    try:
        return any(name.startswith(PREFIX) for name in os.listdir(path.parent))
    except OSError:
        return False
