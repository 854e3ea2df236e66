"""The device image: all that an accelerator's memory needs, in one file that a C driver can check.

    header      HEADER: sizes of the architecture, counts, checksums
    sections    SECTION: what, whose, where, how long, CRC-32
    tasks       TASK: name, shapes, which sections are its program and its constants
    payload     the sections, each from a multiple of WINDOW_ALIGNMENT on, zeros between them

All numbers are little endian. The C header ``moesaic_image.h`` is derived from the tables here.
"""

from __future__ import annotations

import enum
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import MAX_HEADS, IntGraph, IntTokens
from moesaic.spec.isa import INSTRUCTION_BYTES
from moesaic.spec.registers import WINDOW_ALIGNMENT
from moesaic.spec.scratch import port_bytes, scratch_bytes

MAGIC = 0x494D4F4D
"""First four bytes of an image: the letters MOMI."""
IMAGE_VERSION = 3
MAX_TASKS = 16
NAME_BYTES = 32
"""Room for a task's name and the zero byte behind it."""


def _most(opcode: isa.Opcode, field: str) -> int:
    return (1 << isa.positions(opcode)[field][1]) - 1


MAX_ROWS = _most(isa.Opcode.MATMUL, "stationary_rows")
"""Rows of an input or an output: as many tokens as one instruction can attend to."""
MAX_INPUT_WORDS = _most(isa.Opcode.LOAD, "words")
"""Words of ``depth`` bytes in an input: one instruction loads all of them."""
MAX_OUTPUTS = _most(isa.Opcode.DRAIN, "columns")
"""Codes in a row of an output; of a task's outputs there are at most ``MAX_HEADS``."""
MAX_OUTPUT_CHUNKS = _most(isa.Opcode.STORE, "words")
"""Chunks of ``lanes`` codes in an output: one instruction stores all of them."""

HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("version", "<u4"),
        ("total_bytes", "<u8"),
        ("table_bytes", "<u4"),  # header, sections and tasks together
        ("table_crc", "<u4"),  # CRC-32 of these bytes, with zeros in this field
        ("arch_hash", "<u4"),
        ("section_count", "<u4"),
        ("task_count", "<u4"),
        ("depth", "<u4"),
        ("width", "<u4"),
        ("lanes", "<u4"),
        ("weight_ports", "<u4"),
        ("output_ports", "<u4"),
        ("reserved", "<u8"),
        ("sha256", "u1", 32),  # of all bytes behind the tables
    ]
)
SECTION = np.dtype(
    [
        ("kind", "<u4"),
        ("index", "<u4"),  # weights: the port; else the task
        ("offset", "<u8"),
        ("bytes", "<u8"),
        ("crc", "<u4"),
        ("reserved", "<u4"),
    ]
)
TASK = np.dtype(
    [
        ("name", f"S{NAME_BYTES}"),
        ("input_rows", "<u4"),  # int8 codes [input_rows, inputs]
        ("inputs", "<u4"),
        ("output_count", "<u4"),
        ("scratch_bytes", "<u4"),  # of port 0's output window, behind the codes
        ("output", "<u4", (MAX_HEADS, 2)),  # of each: int16 codes [rows, columns]; others are zero
    ]
)


class ImageError(ValueError):
    """The bytes are no device image; the message says what is wrong."""


class Section(enum.IntEnum):
    """Kinds of sections. There is one WEIGHT per port, one PROGRAM and one CONSTANT per task."""

    WEIGHT = 0
    PROGRAM = 1
    CONSTANT = 2


@dataclass(frozen=True)
class ImageTask:
    """One task: its window contents, the codes that go in and come out, and the scratch behind."""

    program: bytes
    constants: bytes
    input_rows: int
    inputs: int
    outputs: tuple[tuple[int, int], ...]
    """Rows and columns of each, in the order in which they lie in the OUTPUT window."""
    scratch_bytes: int = 0

    @classmethod
    def of(
        cls,
        arch: ArchConfig,
        graph: IntGraph,
        program: bytes,
        constants: bytes,
        outputs: Sequence[tuple[int, int]] = (),
        frames: int = 1,
    ) -> ImageTask:
        """The task whose codes are those of ``graph``, with what ``program`` needs of scratch; or
        the program of several ``frames``, and tasks that have the same input, with all ``outputs``.

        Codes of the residual stream are one row: the bytes of its words as the residual scratchpad
        has them.
        """
        rows, inputs = graph.gather.shape
        rows *= frames
        if isinstance(graph.embed, IntTokens):
            words = rows * layout.words(inputs, arch.lanes)
            rows, inputs = 1, words * layout.load_bytes(arch, isa.Space.RESIDUAL)
        outputs = tuple(outputs or ((head.rows, head.linear.outputs) for head in graph.heads))
        scratch = scratch_bytes(arch, program, outputs)
        return cls(program, constants, rows, inputs, outputs, scratch)


def _aligned(size: int) -> int:
    return -(-size // WINDOW_ALIGNMENT) * WINDOW_ALIGNMENT


def build_image(arch: ArchConfig, weights: bytes, tasks: Mapping[str, ImageTask]) -> bytes:
    """Lay out an image. ``weights`` are whole lines in stream order, not yet split over ports;
    ``tasks`` are all programs, those of several tasks or frames among them.

    Raises
    ------
    UserError
        Too many tasks, or a name that is too long.
    """
    if len(tasks) > MAX_TASKS:
        raise UserError(f"a bundle holds at most {MAX_TASKS} programs, not {len(tasks)}")
    for name in tasks:
        if len(name.encode()) >= NAME_BYTES:
            raise UserError(f"task name {name!r} is too long: at most {NAME_BYTES - 1} bytes")
    parts: list[tuple[Section, int, bytes]] = [
        (Section.WEIGHT, port, part) for port, part in enumerate(layout.split_ports(arch, weights))
    ]
    for index, task in enumerate(tasks.values()):
        parts += [(Section.PROGRAM, index, task.program), (Section.CONSTANT, index, task.constants)]
    sections = np.zeros(len(parts), SECTION)
    table_bytes = HEADER.itemsize + sections.nbytes + len(tasks) * TASK.itemsize
    first = end = _aligned(table_bytes)
    payload = bytearray()
    for row, (kind, number, data) in zip(sections, parts, strict=True):
        payload += bytes(end - first - len(payload))
        payload += data
        row["kind"], row["index"] = kind, number
        row["offset"], row["bytes"], row["crc"] = end, len(data), zlib.crc32(data)
        end = _aligned(end + len(data))
    gap = bytes(first - table_bytes)
    header = np.zeros(1, HEADER)
    header["magic"], header["version"] = MAGIC, IMAGE_VERSION
    header["total_bytes"] = first + len(payload)
    header["table_bytes"], header["arch_hash"] = table_bytes, arch.hash
    header["section_count"], header["task_count"] = len(sections), len(tasks)
    for name in ("depth", "width", "lanes", "weight_ports", "output_ports"):
        header[name] = getattr(arch, name)
    header["sha256"] = np.frombuffer(hashlib.sha256(gap + payload).digest(), np.uint8)
    entries = np.zeros(len(tasks), TASK)
    for entry, (name, task) in zip(entries, tasks.items(), strict=True):
        entry["name"] = name.encode()
        entry["input_rows"], entry["inputs"] = task.input_rows, task.inputs
        entry["output_count"] = len(task.outputs)
        entry["scratch_bytes"] = task.scratch_bytes
        entry["output"][: len(task.outputs)] = task.outputs
    tables = sections.tobytes() + entries.tobytes()
    header["table_crc"] = zlib.crc32(header.tobytes() + tables)
    return header.tobytes() + tables + gap + bytes(payload)


def read_image(arch: ArchConfig, image: bytes) -> tuple[bytes, dict[str, ImageTask]]:
    """Inverse of :func:`build_image`: the weights in stream order, and the tasks.

    Nothing in it is trusted: the rules are those of the C driver.

    Raises
    ------
    ImageError
        It is no image for ``arch``, or damaged.
    """
    header = _header(arch, image)
    ports, count = arch.weight_ports, int(header["task_count"])
    sections = np.frombuffer(image, SECTION, ports + 2 * count, HEADER.itemsize)
    entries = np.frombuffer(image, TASK, count, HEADER.itemsize + sections.nbytes)
    parts = _sections(arch, image, sections, int(header["table_bytes"]))
    weights = layout.join_ports(arch, parts[:ports])
    return weights, _tasks(arch, entries, parts[ports:])


def _header(arch: ArchConfig, image: bytes) -> np.void:
    """The header, when it, the length of the tables and all checksums over them are right."""
    _require(len(image) >= HEADER.itemsize, "is too short for a header")
    header: np.void = np.frombuffer(image, HEADER, 1)[0]
    _require(header["magic"] == MAGIC, "does not begin like an image")
    _require(header["version"] == IMAGE_VERSION, f"is not of version {IMAGE_VERSION}")
    _require(header["total_bytes"] == len(image), "has another length than it says")
    _require(1 <= header["task_count"] <= MAX_TASKS, f"must hold 1 to {MAX_TASKS} tasks")
    _require(header["arch_hash"] == arch.hash, "is for another architecture")
    for name in ("depth", "width", "lanes", "weight_ports", "output_ports"):
        _require(header[name] == getattr(arch, name), f"is for another {name}")
    sections = arch.weight_ports + 2 * int(header["task_count"])
    tables = HEADER.itemsize + sections * SECTION.itemsize
    tables += int(header["task_count"]) * TASK.itemsize
    _require(header["section_count"] == sections, "has another number of sections")
    _require(header["table_bytes"] == tables <= len(image), "has tables of another length")
    plain = header.copy()
    plain["table_crc"] = 0
    crc = zlib.crc32(image[HEADER.itemsize : tables], zlib.crc32(plain.tobytes()))
    _require(header["table_crc"] == crc, "has damaged tables")
    digest = hashlib.sha256(memoryview(image)[tables:]).digest()
    _require(bytes(header["sha256"]) == digest, "has damaged contents")
    return header


def _sections(arch: ArchConfig, image: bytes, sections: np.ndarray, end: int) -> list[bytes]:
    """Contents of the sections, which must come in order and fill the image."""
    ports, port_bytes = arch.weight_ports, arch.weight_port_bytes
    parts: list[bytes] = []
    for number, row in enumerate(sections):
        task, constants = divmod(number - ports, 2)
        kind = Section.CONSTANT if constants else Section.PROGRAM
        place = (Section.WEIGHT, number) if number < ports else (kind, task)
        _require((row["kind"], row["index"]) == place, f"has section {number} out of order")
        start, size = int(row["offset"]), int(row["bytes"])
        _require(start % WINDOW_ALIGNMENT == 0 and start >= end, f"has section {number} misplaced")
        _require(0 < size <= 0xFFFFFFFF, f"has section {number} of {size} bytes")
        _require(size <= len(image) - start, f"has section {number} beyond its end")
        parts.append(image[start : start + size])
        whole = number >= ports or (size == len(parts[0]) and size % port_bytes == 0)
        _require(whole, f"has weights of another length for port {number}")
        _require(zlib.crc32(parts[-1]) == row["crc"], f"has section {number} damaged")
        end = start + size
    _require(end == len(image), "has bytes behind its last section")
    return parts


def _tasks(arch: ArchConfig, entries: np.ndarray, parts: Sequence[bytes]) -> dict[str, ImageTask]:
    tasks: dict[str, ImageTask] = {}
    for entry, program, constants in zip(entries, parts[::2], parts[1::2], strict=True):
        raw = entry.tobytes()[:NAME_BYTES]
        name = raw.rstrip(b"\0")
        _require(0 < len(name) < NAME_BYTES and b"\0" not in name, "has a task without a name")
        try:
            text = name.decode()
        except UnicodeDecodeError as error:
            raise ImageError("has a task whose name is no text") from error
        count = int(entry["output_count"])
        _require(1 <= count <= MAX_HEADS, f"has task {text!r} without outputs, or with too many")
        rows, inputs = int(entry["input_rows"]), int(entry["inputs"])
        outputs = tuple((int(r), int(c)) for r, c in entry["output"][:count])
        whole = rows and inputs and all(r and c for r, c in outputs)
        _require(text not in tasks and bool(whole), f"has task {text!r} twice, or empty")
        _require(
            not entry["output"][count:].any(), f"has task {text!r} with outputs behind its last"
        )
        scratch = int(entry["scratch_bytes"])
        input_bytes = rows * layout.words(inputs, arch.depth) * arch.depth
        fits = max(input_bytes, port_bytes(arch, outputs) + scratch) <= 0xFFFFFFFF
        _require(fits, f"has task {text!r} with windows beyond 32 bits")
        even = len(program) % INSTRUCTION_BYTES == 0
        _require(even, f"has task {text!r} with a part of an instruction")
        tasks[text] = ImageTask(program, constants, rows, inputs, outputs, scratch)
    return tasks


def _require(condition: bool | np.bool_, complaint: str) -> None:
    if not condition:
        raise ImageError(f"device image {complaint}")
