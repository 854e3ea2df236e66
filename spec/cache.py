"""Builds kept by content: built once, whoever asks first, on however many processes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from moesaic.spec.errors import UserError


def cache_root() -> Path:
    """The folder of all cached builds: ``$MOESAIC_CACHE``, or ``build/cache`` below the sources.

    An installed package has no writable source folder; it uses ``~/.cache/moesaic``.
    """
    override = os.environ.get("MOESAIC_CACHE")
    if override:
        return Path(override).expanduser().resolve()
    source_root = Path(__file__).resolve().parent.parent
    if (source_root / "pyproject.toml").exists():
        return source_root / "build" / "cache"
    return Path.home() / ".cache" / "moesaic"


def content_key(parts: Iterable[str | bytes]) -> str:
    """Hash of ``parts`` in order; lengths are hashed too, so that no two lists run together."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def sources(*packages: str, without: Collection[str] = ()) -> Iterator[str | bytes]:
    """Names and contents of the Python files of packages: parts of the key of what they make.

    Folders in ``without`` have no say in it.
    """
    for package in packages:
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None, package
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root)
            if name.parts[0] not in without:
                yield from (str(name), path.read_bytes())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file closes, even if we are killed
        yield


def cached(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder of build ``key``, calling ``build(folder)`` first if it does not exist.

    ``build`` fills an empty folder, which is renamed into place only when it returns: a failed or
    killed build leaves nothing behind that could be taken for a good one. Processes that want the
    same key wait for the first of them.

    Raises
    ------
    UserError
        Nothing can be written there.
    """
    root = cache_root() / kind
    final = root / key
    if final.is_dir():
        return final
    with ExitStack() as lock:
        draft = root / f"{key}.draft"
        try:
            root.mkdir(parents=True, exist_ok=True)
            lock.enter_context(_locked(root / f"{key}.lock"))
            if final.is_dir():
                return final
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
        except OSError as error:
            raise UserError(
                f"the cache {root} cannot be written: {error.strerror}; name another folder in the"
                " environment variable MOESAIC_CACHE"
            ) from error
        try:
            build(draft)
            draft.rename(final)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return final
