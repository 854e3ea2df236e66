"""Puts a bundle in its place: a reader sees the old one or the new one, whole, at any time."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from moesaic.spec.errors import UserError
from moesaic.spec.manifest import MANIFEST
from moesaic.spec.staging import Stage, is_at, keep_elsewhere, remove_unused

_READERS_SECONDS = 10.0
"""How long the removal of an old bundle waits for those that read it; the next writer does it."""
_TRIES = 1000
_AT_FDCWD, _NO_REPLACE, _EXCHANGE = -100, 1, 2
_UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM}
"""What file systems answer that cannot exchange two folders."""


class BundlePlace:
    """Where a bundle will be. A context: a folder beside it is held from the beginning.

    So what cannot be written is refused before the work, not behind it. If several write to one
    place, the last one wins. A link is written through: the folder that it points to is replaced.

    Parameters
    ----------
    target
        The bundle's directory. Whatever is there must be a bundle, or empty.
    least_bytes
        The bundle will have so many at least.

    Attributes
    ----------
    replaces
        Whether a bundle was there in the beginning.

    Raises
    ------
    UserError
        Something else is there, or nothing can be written; also from :meth:`fill`.
    """

    def __init__(self, target: Path, least_bytes: int = 0) -> None:
        self._named = target
        try:
            self._target = Path(os.path.realpath(target))
            self.replaces = self._check()  # before a folder is made for what is refused
            self._stage = Stage(self._target.parent, folder=True, least_bytes=least_bytes)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise self._refusal(error) from error
        try:
            self._check()  # with the parent there, also of the name
        except OSError as error:
            self._stage.close()
            raise self._refusal(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stage.close()

    def fill(self, files: Mapping[str, bytes]) -> None:
        """Write the files and put them in place.

        What cannot be put there is kept in the folder for temporary files; the message says where.
        """

        def write(folder: Path) -> None:
            folder.mkdir(exist_ok=True)
            for name, data in files.items():
                (folder / name).write_bytes(data)

        try:
            write(self._stage.path)
            self._put()
            self._stage.placed()
            # What was there has the stage's name now.
            remove_unused(self._stage.path, _READERS_SECONDS)
        except (OSError, UserError) as error:  # UserError: something else lies there meanwhile
            kept = keep_elsewhere(self._target.name, write)
            raise UserError(f"{self._refusal(error)}; {kept}") from error

    def _refusal(self, error: Exception) -> UserError:
        if isinstance(error, UserError):
            return error
        reason = getattr(error, "strerror", None) or error
        return UserError(f"{self._named} cannot be written: {reason}; choose another -o")

    def _check(self) -> bool:
        """Whether a bundle is there already; something else is refused."""
        for _ in range(_TRIES):
            try:
                os.lstat(self._target)
                descriptor = os.open(self._target, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                return False
            except NotADirectoryError:
                os.lstat(self._target)  # raises if it is not the last part of the path
                names = ["a file"]
                break
            try:
                names = os.listdir(descriptor)
                if is_at(descriptor, self._target):
                    break  # nobody has begun to remove it meanwhile
            finally:
                os.close(descriptor)
        if names and MANIFEST not in names:
            raise UserError(
                f"{self._named} exists and is no bundle; remove it or choose another -o"
            )
        return bool(names)

    def _put(self) -> None:
        for _ in range(_TRIES):
            self._check()
            try:
                if os.path.lexists(self._target):
                    _rename(self._stage.path, self._target, _EXCHANGE)
                else:
                    _rename(self._stage.path, self._target, _NO_REPLACE)
                return
            except (FileNotFoundError, FileExistsError):
                continue  # another writer was faster
            except OSError as error:
                if error.errno not in _UNKNOWN:
                    raise
            if _replace(self._stage.path, self._target):
                return
        raise OSError(errno.EBUSY, "too many others write there")


def _rename(source: Path, target: Path, flags: int) -> None:
    """Linux's ``renameat2``; ENOSYS where there is none."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = os.fsencode(source), os.fsencode(target)
    if function(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(flags)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def _replace(source: Path, target: Path) -> bool:
    """Rename twice where folders cannot be exchanged; False if another writer came between.

    Readers that find nothing look again while a stage lies beside the place.
    """
    aside = source.with_name(source.name + "-old")
    try:
        if os.path.lexists(target):
            os.rename(target, aside)
        os.rename(source, target)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    finally:
        if aside.exists():
            remove_unused(aside, _READERS_SECONDS)
    return True


def write_directory(target: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` into the directory ``target``, replacing a bundle that is there.

    Raises
    ------
    UserError
        ``target`` exists and is not a bundle, or cannot be written.
    """
    with BundlePlace(target) as place:
        place.fill(files)
