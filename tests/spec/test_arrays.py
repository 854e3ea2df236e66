"""The reader of ``.npz`` files and the one check of inputs."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesaic.spec import arrays
from moesaic.spec.arrays import Archive, open_arrays
from moesaic.spec.errors import UserError
from moesaic.spec.hostside import check_frames
from tests.spec.bundle_mutations import BAD_ARCHIVES
from tests.spec.bundle_pieces import npz

GOOD = {
    "floats": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "columns": np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4)),
    "big": np.arange(5, dtype=">i4"),
    "half": np.ones((2, 2), np.float16),
    "scalar": np.float64(3.5),
    "none": np.zeros((0, 7), np.uint8),
    "truth": np.array([True, False]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_numpy_does(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "a.npz", **GOOD)
    archive = open_arrays(tmp_path / "a.npz")
    assert set(archive) == set(GOOD) and len(archive) == len(GOOD)
    for name, want in GOOD.items():
        got = archive[name]
        assert got.dtype == want.dtype and got.shape == want.shape and np.array_equal(got, want)
    assert archive.bytes == sum(array.nbytes for array in GOOD.values())


def test_name_without_suffix_is_an_array() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file, file.open("x", "w") as entry:
        np.lib.format.write_array(entry, np.arange(3))
    assert list(Archive(buffer.getvalue(), "a.npz")["x"]) == [0, 1, 2]


OTHERS = {"objects", "text", "records"}


@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_other_things_than_numbers_may_be_there_and_are_not_read(kind: str) -> None:
    archive = Archive(BAD_ARCHIVES[kind], "a.npz")
    assert "a" in archive
    with pytest.raises(UserError, match="array 'a' of a.npz must hold numbers"):
        archive["a"]
    with pytest.raises(UserError, match="input 'a' of task seg must be float32"):
        check_frames(archive, "a", (1, 2), task="seg")


@pytest.mark.parametrize("kind", sorted(set(BAD_ARCHIVES) - {"no entries", "a bomb"} - OTHERS))
def test_bad_archives_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match="^a.npz cannot be read as .npz: ") as caught:
        Archive(BAD_ARCHIVES[kind], "a.npz")
    assert "\n" not in str(caught.value)


def test_damaged_contents_are_refused() -> None:
    """Every byte flipped in turn: refused, or another array under the same name and size."""
    data = npz({"x": np.arange(64, dtype=np.int32)})
    refused = 0
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x11
        try:
            for array in Archive(bytes(damaged), "a.npz").values():
                assert array.nbytes <= 1 << 20
        except UserError:
            refused += 1
    assert refused > len(data) // 2
    for length in range(0, len(data), 3):
        with pytest.raises(UserError):
            dict(Archive(data[:length], "a.npz"))


def test_two_arrays_of_one_name_are_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in ("x.npy", "x"):
            with file.open(name, "w") as entry:
                np.lib.format.write_array(entry, np.arange(3))
    with pytest.raises(UserError, match="two arrays 'x'"):
        Archive(buffer.getvalue(), "a.npz")


def test_array_beyond_the_memory_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(npz({"x": np.zeros(1 << 16)}), "a.npz")
    monkeypatch.setattr(arrays, "memory_bytes", lambda: 1 << 16)
    with pytest.raises(UserError, match="an array 'x' of 524288 bytes, more than the 65536"):
        archive["x"]


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none", Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(UserError, match="cannot be read as .npz"):
            open_arrays(path)


WRONG: list[tuple[Any, str]] = [
    (None, "must be float32, not object"),
    ([[1.0], [1.0, 2.0]], "is no array|must be float32"),
    (np.array([["a", "b"]]), "must be float32"),
    (np.zeros((1, 2), complex), "must be float32, not complex128"),
    (np.zeros((1, 2), bool), "must be float32, not bool"),
    (np.float32(1), "must have the shape Nx2, not none"),
    (np.zeros(2, np.float32), "must have the shape Nx2, not 2"),
    (np.zeros((1, 3), np.float32), "must have the shape Nx2, not 1x3"),
    (np.zeros((0, 2), np.float32), "has no frames"),
    (np.array([[0, 0], [0, np.nan]]), "frame 1 holds NaN or infinity"),
    (np.array([[1e39, 0]]), "frame 0 holds NaN or infinity"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_inputs_are_refused(number: int) -> None:
    value, message = WRONG[number]
    with pytest.raises(UserError, match=f"input 'x' of task seg .*({message})"):
        check_frames({"x": value}, "x", (1, 2), task="seg")


def test_missing_input_names_what_is_there() -> None:
    with pytest.raises(UserError, match="task seg needs the input 'x'; it all has a, b"):
        check_frames({"b": 1, "a": 2}, "x", (1, 2), task="seg", holder="it all")  # type: ignore[dict-item]


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8", "i1", "u2", "i8"])
def test_numbers_of_any_type_become_float32(dtype: str) -> None:
    value = np.array([[1, 2], [3, 4]], dtype)
    for inputs in ({"x": value}, Archive(npz({"x": value}), "a.npz")):
        got = check_frames(inputs, "x", (1, 2), task="seg")
        assert got.dtype == np.float32 and got.tolist() == [[1, 2], [3, 4]]


def test_nothing_is_unpacked_of_an_input_of_another_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(npz({"x": np.zeros((1, 3), np.float32)}), "a.npz")
    monkeypatch.setattr(Archive, "__getitem__", lambda self, name: pytest.fail("unpacked"))
    with pytest.raises(UserError, match="must have the shape Nx2, not 1x3"):
        check_frames(archive, "x", (1, 2), task="seg")


@pytest.mark.parametrize(
    ("name", "contents", "what"),
    [
        ("m.onnx", b"\x08\x0a\x12\x07pytorch", "is an ONNX model and no .npz"),
        ("m.bin", b"\x08\x0a\x12\x07pytorch", "is an ONNX model and no .npz"),
        ("x.npy", b"\x93NUMPY\x01\x00", r"is a single array \(.npy\) and no .npz"),
        ("x.png", b"\x89PNG\r\n\x1a\n", "is a picture and no .npz"),
        ("x.pkl", b"\x80\x04\x95", "is a pickle, which is not read because it can run anything"),
        ("x.json", b'{"image": []}', "is a JSON text and no .npz"),
        ("x.npz", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("x.npz", b"", "is empty and no .npz"),
        ("x.npz", b"hello, world", "is something else and no .npz"),
    ],
)
def test_other_files_are_named_for_what_they_are(
    name: str, contents: bytes, what: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(UserError, match=what) as caught:
        open_arrays(tmp_path / name)
    assert "give an .npz of arrays by name" in str(caught.value)
    assert "pickle=" not in str(caught.value) and "\n" not in str(caught.value)


def test_torch_checkpoint_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as file:
        file.writestr("m/data.pkl", b"")
    with pytest.raises(UserError, match="is a torch checkpoint and no .npz"):
        open_arrays(tmp_path / "m.pt")


@pytest.mark.parametrize("array", [np.array([[True]]), np.array([["a"]]), np.array([[None]])])
def test_what_is_no_number_is_refused_with_the_way_out(array: np.ndarray) -> None:
    message = r"must be float32, not .*: give numbers .* by array.astype\(numpy.float32\)"
    with pytest.raises(UserError, match=message):
        check_frames({"x": array}, "x", (1, 1), task="seg")
