"""Device images and parts on the host that break a rule, under right checksums and seals."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from onnx import parser

from moesaic.host import Session
from moesaic.spec import image
from moesaic.spec.errors import UserError
from tests.spec.bundle_pieces import host_model, pieces, refusal, reseal_image, seal_tables


def sourceless(outputs: tuple[str, ...]) -> bytes:
    """ONNX of constant outputs, which needs no input."""
    return parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> host () => ('
        + ", ".join(f"float[1, 1] {name}" for name in outputs)
        + ") {"
        + "".join(f"{name} = Constant<value = float[1, 1] {{1}}>()" for name in outputs)
        + "}"
    ).SerializeToString()


def outputs(*shapes: list[int]) -> np.ndarray:
    """Rows and columns as a task's record has them."""
    table = np.zeros((image.MAX_HEADS, 2), np.uint32)
    table[: len(shapes)] = shapes
    return table


IMAGE_CHANGES: dict[str, tuple[np.dtype, str, int, str]] = {
    "magic": (image.HEADER, "magic", 1, "does not begin"),
    "version": (image.HEADER, "version", 1, "is not of version"),
    "length": (image.HEADER, "total_bytes", 1, "another length"),
    "arch": (image.HEADER, "arch_hash", 1, "for another architecture"),
    "depth": (image.HEADER, "depth", 32, "for another depth"),
    "ports": (image.HEADER, "weight_ports", 1 << 31, "for another weight_ports"),
    "tasks": (image.HEADER, "task_count", 17, "must hold 1 to 16 tasks"),
    "no tasks": (image.HEADER, "task_count", 0, "must hold 1 to 16 tasks"),
    "sections": (image.HEADER, "section_count", 7, "another number of sections"),
    "tables": (image.HEADER, "table_bytes", 1, "tables of another length"),
    "kind": (image.SECTION, "kind", 2, "section 0 out of order"),
    "index": (image.SECTION, "index", 1, "section 0 out of order"),
    "unaligned": (image.SECTION, "offset", 4097, "section 0 misplaced"),
    "in the tables": (image.SECTION, "offset", 0, "section 0 misplaced"),
    "far": (image.SECTION, "offset", 1 << 40, "section 0 beyond its end"),
    "wraps": (image.SECTION, "bytes", (1 << 64) - 4096, "section 0 of"),
    "empty": (image.SECTION, "bytes", 0, "section 0 of 0 bytes"),
    "uneven": (image.SECTION, "bytes", 8, "weights of another length"),
    "rows": (image.TASK, "output", outputs([0x80000002, 5]), "windows beyond 32 bits"),
    "surplus": (image.TASK, "output", outputs([4, 5], [1, 1]), "outputs behind its last"),
    "no outputs": (image.TASK, "output_count", 0, "without outputs, or with too many"),
    "many outputs": (image.TASK, "output_count", 33, "without outputs, or with too many"),
    "an output less": (image.TASK, "output_count", 2, "twice, or empty"),
    "no rows": (image.TASK, "input_rows", 0, "twice, or empty"),
    "columns": (image.TASK, "inputs", 0xFFFFFFFF, "windows beyond 32 bits"),
    "scratch": (image.TASK, "scratch_bytes", 64, "other shapes or scratch for task seg"),
    "scratch beyond": (image.TASK, "scratch_bytes", 0xFFFFFFFF, "windows beyond 32 bits"),
    "shapes": (image.TASK, "inputs", 8, "other shapes or scratch for task seg"),
}


@pytest.mark.parametrize("name", IMAGE_CHANGES)
def test_images_that_break_a_rule_are_refused(name: str, tmp_path: Path) -> None:
    """The rules of the C driver, in Python; all checksums are right."""
    dtype, field, value, message = IMAGE_CHANGES[name]
    made = pieces(0)
    start = {
        image.HEADER: 0,
        image.SECTION: image.HEADER.itemsize,
        image.TASK: image.HEADER.itemsize + 6 * image.SECTION.itemsize,
    }[dtype]
    row = np.frombuffer(made.image[start : start + dtype.itemsize], dtype)[0].copy()
    row[field] = value
    made.image[start : start + dtype.itemsize] = row.tobytes()
    reseal_image(made.image)
    made.write(tmp_path)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize(
    "place", [40, 60, 126, 300, 2000, 5000, -1]
)  # 60, 126: reserved; 2000: a gap
def test_images_with_a_wrong_checksum_are_refused(place: int, tmp_path: Path) -> None:
    made = pieces(0)
    made.image[place] ^= 1
    made.write(tmp_path)
    assert "device image" in refusal(tmp_path)


def test_checksum_of_every_section_is_compared(tmp_path: Path) -> None:
    """Those of the tables and of the contents as a whole are right."""
    for number in range(6):
        made = pieces(0)
        place = image.HEADER.itemsize + number * image.SECTION.itemsize
        made.image[place + image.SECTION.fields["crc"][1]] ^= 1  # type: ignore[index]
        digest = hashlib.sha256(
            made.image[image.HEADER.itemsize + 6 * 32 + 2 * image.TASK.itemsize :]
        ).digest()
        seal_tables(made.image, digest)
        folder = tmp_path / str(number)
        folder.mkdir()
        made.write(folder)
        assert f"has section {number} damaged" in refusal(folder)


@pytest.mark.parametrize("bytes_kept", [0, 40, 200, 1000, -1])
def test_images_that_are_cut_are_refused(bytes_kept: int, tmp_path: Path) -> None:
    made = pieces(0)
    del made.image[bytes_kept:]
    made.write(tmp_path)
    assert "device image" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"", "ONNX Runtime cannot run"),
        (b"no model", "ONNX Runtime cannot run"),
        (host_model(7), "it takes"),
        (sourceless(("z",)), "ONNX Runtime cannot run"),
    ],
)
def test_parts_on_the_host_that_do_not_fit_are_refused(
    model: bytes, message: str, tmp_path: Path
) -> None:
    made = pieces(1)
    made.others["depth.host.onnx"] = model
    made.write(tmp_path)
    inputs = {"x": made.samples["depth.input"]}
    with Session(tmp_path) as session, pytest.raises(UserError, match=re.escape(message)):
        session.run(inputs, "depth")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"", "ONNX Runtime cannot run"),
        (host_model(7, ends=("image", "x")), "it takes"),
        (host_model(28, ends=("picture", "x")), "it takes 'picture', which it is not given"),
        (host_model(28, ends=("image", "y")), "it must deliver x"),
        (sourceless(("x",)), "ONNX Runtime cannot run"),
        (sourceless(("x", "x2")), "it must deliver x"),
    ],
)
def test_fronts_that_do_not_fit_are_refused(model: bytes, message: str, tmp_path: Path) -> None:
    made = pieces(2)
    made.others["seg.front.onnx"] = model
    made.write(tmp_path)
    inputs = {"image": made.samples["seg.input"]}
    with Session(tmp_path) as session, pytest.raises(UserError, match=re.escape(message)):
        session.run(inputs, "seg")


def test_part_on_the_host_delivers_what_the_report_says(tmp_path: Path) -> None:
    made = pieces(1)
    host = made.manifest["report"]["tasks"]["depth"]["host"]
    for number, outputs in enumerate(({"other": [1, 3]}, {"z": [1, 4]})):
        folder = tmp_path / str(number)
        folder.mkdir()
        host["outputs"] = outputs
        made.samples = {k: v for k, v in made.samples.items() if not k.startswith("depth")}
        made.write(folder)
        inputs = {"x": np.zeros((1, *made.graph_of["depth"].input_shape[1:]), np.float32)}
        with Session(folder) as session, pytest.raises(UserError, match="it (must )?deliver"):
            session.run(inputs, "depth")
