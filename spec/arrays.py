"""The reader of ``.npz`` files: what is in them is known, and bounded, before it is unpacked."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from moesaic.spec.errors import UserError

_KINDS = "biuf"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_VERSION = (1, 0)
"""Of headers: longer ones, which only records need, have others."""
_WANTED = "give an .npz of arrays by name, as numpy.savez(FILE, NAME=array) writes it"
_HEAD_BYTES = 16
_KNOWN = {
    b"\x93NUMPY": "a single array (.npy)",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x89HDF": "an HDF5 file",
    b"\x80": "a pickle, which is not read because it can run anything",
    b"{": "a JSON text",
    b"version https://": "a Git LFS pointer, whose file is elsewhere (`git lfs pull` fetches it)",
}
"""First bytes of what is taken for an ``.npz`` or a model by mistake."""
_MOST_ENTRIES, _MOST_BYTES = 1 << 16, 1 << 40


def memory_bytes() -> int:
    """Half of this machine's memory: what one file may take when it is unpacked."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


@dataclass(frozen=True)
class Entry:
    """One array as its header describes it; ``start`` is where its bytes begin."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    column_major: bool
    start: int

    @property
    def numeric(self) -> bool:
        """Whether it has numbers or truth values: anything else is not read."""
        plain = self.dtype.names is None and self.dtype.subdtype is None
        return plain and self.dtype.kind in _KINDS

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class Archive(Mapping[str, NDArray[Any]]):
    """Arrays by name. Opening it reads headers only, an item is unpacked when it is taken.

    Numbers and truth values have exactly the bytes that their shape needs; arrays of anything else
    may be there, and cannot be taken.

    Parameters
    ----------
    file
        Contents of the ``.npz``, or the open file.
    name
        How messages name it.

    Raises
    ------
    UserError
        It is no ``.npz`` of such arrays.
    """

    def __init__(self, file: bytes | BinaryIO, name: str) -> None:
        self._name = name
        self.entries: dict[str, Entry] = {}
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(file) if isinstance(file, bytes) else file)
            infos = self._zip.infolist()
            if len(infos) > _MOST_ENTRIES:
                raise ValueError(f"it has {len(infos)} arrays, more than {_MOST_ENTRIES}")
            for info in infos:
                key = info.filename.removesuffix(".npy")
                if key in self.entries:
                    raise ValueError(f"it has two arrays {key!r}")
                self.entries[key] = self._describe(info)
        except Exception as error:  # zipfile, zlib and numpy raise of everything on such bytes
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> UserError:
        lines = str(error).splitlines() or [type(error).__name__]
        return UserError(f"{self._name} cannot be read as .npz: {lines[0]}")

    def _describe(self, info: zipfile.ZipInfo) -> Entry:
        if info.compress_type not in _METHODS:
            raise ValueError(f"array {info.filename!r} is packed in a way that .npz does not have")
        with self._zip.open(info) as file:
            version = npy.read_magic(file)
            if version != _VERSION:
                raise ValueError(f"array {info.filename!r} has a header of version {version}")
            shape, column_major, dtype = npy.read_array_header_1_0(file)
            start = file.tell()
        large = prod(max(length, 1) for length in shape) * dtype.itemsize > _MOST_BYTES
        if large or any(length < 0 for length in shape) or len(shape) > 32:
            raise ValueError(f"array {info.filename!r} has no shape that arrays have")
        entry = Entry(dtype, tuple(shape), column_major, start)
        if entry.numeric and entry.bytes != info.file_size - start:
            has = info.file_size - start
            raise ValueError(f"array {info.filename!r} needs {entry.bytes} bytes and has {has}")
        return entry

    @property
    def bytes(self) -> int:
        """Of all arrays together when they are unpacked."""
        return sum(entry.bytes for entry in self.entries.values())

    def __getitem__(self, name: str) -> NDArray[Any]:
        """An array, which is not to be written to.

        Raises
        ------
        KeyError
            There is none of this name.
        UserError
            It has no numbers, its bytes are damaged, or they do not fit the memory.
        """
        entry = self.entries[name]
        if not entry.numeric:
            raise UserError(f"array {name!r} of {self._name} must hold numbers, not {entry.dtype}")
        if entry.bytes > memory_bytes():
            raise UserError(
                f"{self._name} has an array {name!r} of {entry.bytes} bytes, more than the"
                f" {memory_bytes()} that this machine has room for: split it"
            )
        try:
            names = self._zip.NameToInfo
            data = self._zip.read(names.get(f"{name}.npy") or names[name])
            flat = np.frombuffer(data, entry.dtype, prod(entry.shape), entry.start)
        except Exception as error:  # as above
            raise self._refusal(error) from error
        if entry.column_major:
            return flat.reshape(entry.shape[::-1]).T
        return flat.reshape(entry.shape)

    def __contains__(self, name: object) -> bool:
        return name in self.entries  # what Mapping has would unpack it

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def open_arrays(path: str | Path) -> Archive:
    """Open an ``.npz`` file of the user.

    Raises
    ------
    UserError
        It cannot be read as ``.npz``.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise UserError(f"{path} cannot be read as .npz: it is no plain file")
        file = open(path, "rb")  # noqa: SIM115 - the archive reads from it later
        what = other_kind(file, Path(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as .npz: {reason}") from error
    if what:
        file.close()
        raise UserError(f"{path} is {what} and no .npz: {_WANTED}")
    return Archive(file, str(path))


def other_kind(file: BinaryIO, path: Path) -> str:
    """What a file is that is no ``.npz``; nothing if it may be one. It is read from its start."""
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if not head:
        return "empty"
    for start, kind in _KNOWN.items():
        if head.startswith(start):
            return kind
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
        file.seek(0)
        return "a torch checkpoint" if any(name.endswith("data.pkl") for name in names) else ""
    file.seek(0)
    # ONNX is protobuf without a mark of its own: its first field is the version of the format.
    if path.suffix == ".onnx" or head[0] == 0x08 and head[2] in (0x12, 0x1A, 0x3A):
        return "an ONNX model"
    return "something else"
