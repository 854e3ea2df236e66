"""What is being written lies beside its place under a name of its own until it is whole.

Whoever writes holds a shared lock on it, which the kernel releases however the writer ends: what
nobody holds is left over from one that was killed, and the next writer in that folder removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PREFIX = ".moesaic-"
"""Of the names of all files and folders that are being written, or are about to be removed."""
_TRIES = 100
_POLL_SECONDS = 0.01
_PROBE_BYTES = 1 << 16
_UNLOCKABLE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL}
"""What file systems without locks answer; there, nothing is known to be left over."""


def try_lock(descriptor: int, exclusive: bool) -> bool:
    """Lock an open file or folder without waiting; False if someone holds it against us.

    Raises
    ------
    OSError
        The file system knows no locks.
    """
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether what is open is what lies at ``path`` now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


class Stage:
    """A new file or folder beside the place that it is for.

    Attributes
    ----------
    path, descriptor
        Where it is, and its open descriptor, which holds the lock.

    Parameters
    ----------
    parent
        The folder, which is made if it is missing, and unmade if it stays empty.
    folder
        Whether to make a folder or a file.
    least_bytes
        What will be written has so many at least.

    Raises
    ------
    OSError
        Nothing can be made there, or there is no room.
    """

    def __init__(self, parent: Path, *, folder: bool, least_bytes: int = _PROBE_BYTES) -> None:
        self._made, self._placed = _make_parents(parent), True
        try:
            self._make(parent, folder)
            self._placed = False
            self._require_room(folder, least_bytes)
        except BaseException:
            self.close()
            self._unmake_parents()
            raise

    def _make(self, parent: Path, folder: bool) -> None:
        remove_stale(parent)
        for _ in range(_TRIES):
            self.path = parent / f"{PREFIX}{secrets.token_hex(8)}"
            if folder:
                self.path.mkdir()
                flags = os.O_RDONLY | os.O_DIRECTORY
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            try:
                self.descriptor = os.open(self.path, flags, 0o666)
            except FileNotFoundError:
                if folder:
                    continue  # taken for a left-over before it was open
                raise
            # Until it is locked, another writer may take it for a left-over.
            if _lock_if_possible(self.descriptor) and is_at(self.descriptor, self.path):
                return
            os.close(self.descriptor)
        raise OSError(errno.EAGAIN, "others remove what is written there")

    def _require_room(self, folder: bool, least_bytes: int) -> None:
        """Write something and take it back: a full disk lets files be made, but not filled."""
        probe = self.path / "room"
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT) if folder else self.descriptor
        try:
            full = os.write(descriptor, bytes(_PROBE_BYTES)) < _PROBE_BYTES
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
        finally:
            if folder:
                os.close(descriptor)
                probe.unlink()
        found = os.statvfs(self.path)
        # File systems without blocks do not know how much room they have.
        if full or found.f_blocks and found.f_bavail * found.f_frsize < least_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def placed(self) -> None:
        """It has been moved to its place; what has its name now is somebody else's."""
        os.close(self.descriptor)
        self._placed = True

    def close(self) -> None:
        """Remove it if it has not been moved."""
        if not self._placed:
            self.placed()
            remove(self.path)
            self._unmake_parents()

    def _unmake_parents(self) -> None:
        for parent in reversed(self._made):
            with contextlib.suppress(OSError):
                parent.rmdir()  # stays if something is in it


def keep_elsewhere(name: str, write: Callable[[Path], None]) -> str:
    """Keep in the folder for temporary files what found no room in its place; say where.

    Parameters
    ----------
    name
        Of the file or folder.
    write
        Writes it to a path.
    """
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="moesaic-"))
        write(folder / name)
    except OSError:
        if folder is not None:
            remove(folder)
        return "nor could it be kept elsewhere"
    return f"it is kept as {folder / name}"


def _make_parents(folder: Path) -> list[Path]:
    """Make a folder and what is missing above it; those that were made, the uppermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    made = []
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            made.append(folder)
    return made


def _lock_if_possible(descriptor: int) -> bool:
    try:
        return try_lock(descriptor, exclusive=False)
    except OSError as error:
        if error.errno in _UNLOCKABLE:
            return True
        raise


def remove(path: Path) -> None:
    """Remove a file or a folder as far as that is possible."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_unused(path: Path, wait_seconds: float = 0.0) -> bool:
    """Remove a file or folder that nobody holds a lock on; whether it is gone.

    Parameters
    ----------
    wait_seconds
        How long to wait for those that hold it.
    """
    deadline = time.monotonic() + wait_seconds
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        while not try_lock(descriptor, exclusive=True):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        remove(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def remove_stale(parent: Path) -> None:
    """Remove what writers that were killed have left in a folder."""
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            if name.startswith(PREFIX):
                remove_unused(parent / name)
