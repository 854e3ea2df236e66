"""Memory layouts that compiler, host and tests share: inputs, outputs, constants, weight image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moesaic.spec import tables
from moesaic.spec.arch import ArchConfig
from moesaic.spec.exhaustive import unreachable
from moesaic.spec.formats import ANGLE_BITS
from moesaic.spec.intgraph import InputCodes
from moesaic.spec.isa import Space

PARAMETER_ENTRY = np.dtype(
    [("bias", "<i4"), ("multiplier", "<u2"), ("shift", "u1"), ("reserved", "u1")]
)
"""A column's entry in a parameter block, as ``formats.PARAMETER`` lays it out."""


def words(values: int, per_word: int) -> int:
    """Words of ``per_word`` values that hold ``values`` values."""
    return -(-values // per_word)


def load_bytes(arch: ArchConfig, space: Space) -> int:
    """Bytes of a word that LOAD writes to ``space``; an entry of a table has a beat of its own."""
    match space:
        case Space.ACTIVATION:
            return arch.depth
        case Space.RESIDUAL:
            return 2 * arch.lanes
        case Space.TABLE:
            return arch.data_port_bytes
        case _:
            unreachable(space)


def pack_table(arch: ArchConfig, table: NDArray[np.int32]) -> bytes:
    """int32 entries [entries] of an activation's table as LOAD takes them: value and slope."""
    value = table.astype(np.int64)
    slope = np.append(np.diff(value), 0)
    entries = np.zeros((len(table), arch.data_port_bytes // 4), "<u4")
    low = value & (1 << tables.ACTIVATION_VALUE_BITS) - 1
    high = slope & (1 << tables.ACTIVATION_SLOPE_BITS) - 1
    entries[:, 0] = low | high << tables.ACTIVATION_VALUE_BITS
    return entries.tobytes()


def pack_input(arch: ArchConfig, patches: NDArray[np.int8]) -> bytes:
    """int8 patches [rows, inputs] as activation words, rows padded with zeros to whole words."""
    rows, inputs = patches.shape
    padded = np.zeros((rows, words(inputs, arch.depth) * arch.depth), np.int8)
    padded[:, :inputs] = patches
    return padded.tobytes()


def pack_codes(arch: ArchConfig, codes: InputCodes) -> bytes:
    """A frame's input codes [rows, inputs] as the words that LOAD takes from the INPUT window."""
    if codes.dtype == np.int16:
        return pack_residual(arch, codes.astype(np.int16))
    return pack_input(arch, codes.astype(np.int8))


def pack_residual(arch: ArchConfig, residual: NDArray[np.int16]) -> bytes:
    """int16 rows [tokens, channels] as residual words, padded with zeros to whole words."""
    rows, channels = residual.shape
    padded = np.zeros((rows, words(channels, arch.lanes) * arch.lanes), "<i2")
    padded[:, :channels] = residual
    return padded.tobytes()


def rotary_columns(arch: ArchConfig, pairs: int) -> tuple[int, ...]:
    """Channels of a head whose pairs are rotated, as columns: i and i + ``pairs`` are a pair.

    A chunk of first channels comes before the chunk of the second ones, to a whole number of
    activation words; -1 is padding.
    """
    lanes = arch.lanes
    size = words(2 * lanes * words(pairs, lanes), arch.depth) * arch.depth
    pair = [column // lanes // 2 * lanes + column % lanes for column in range(size)]
    second = [column // lanes % 2 for column in range(size)]
    return tuple(p + s * pairs if p < pairs else -1 for p, s in zip(pair, second, strict=True))


def pack_angles(
    arch: ArchConfig, cosine: NDArray[np.int16], sine: NDArray[np.int16]
) -> NDArray[np.int16]:
    """Residual rows [tokens, columns of a head] of angles [tokens, pairs]: a chunk of cosines
    before the chunk of sines, each a magnitude below its sign."""
    tokens, pairs = cosine.shape
    columns = np.array(rotary_columns(arch, pairs))
    both = np.concatenate([cosine, sine], axis=1).astype(np.int64)
    coded = np.where(both < 0, -both - (1 << ANGLE_BITS - 1), both)
    rows = np.zeros((tokens, len(columns)), np.int64)
    rows[:, columns >= 0] = coded[:, columns[columns >= 0]]
    return rows.astype(np.int16)


def output_index(arch: ArchConfig, rows: int, columns: int) -> NDArray[np.int64]:
    """Position of every output code [rows, columns] in the drain order the store unit writes.

    Drain order: n-tiles of ``width`` columns, in each all rows, in each row the chunks of
    ``lanes`` columns that hold a valid column.
    """
    column = np.arange(columns)
    tile = column // arch.width
    row_codes = np.minimum(arch.width, words(columns, arch.lanes) * arch.lanes - tile * arch.width)
    start = tile * arch.width * rows + column % arch.width
    return start[None, :] + np.arange(rows)[:, None] * row_codes[None, :]


def output_chunks(arch: ArchConfig, rows: int, columns: int) -> int:
    """Chunks of ``lanes`` int16 that one output of [rows, columns] takes."""
    return rows * words(columns, arch.lanes)


def output_offsets(arch: ArchConfig, shapes: Sequence[tuple[int, int]]) -> list[int]:
    """First chunk of each output [rows, columns] in the OUTPUT window, and the end of the last:
    output behind output."""
    chunks = [output_chunks(arch, *shape) for shape in shapes]
    return [sum(chunks[:number]) for number in range(len(chunks) + 1)]


def join_outputs(arch: ArchConfig, parts: Sequence[bytes]) -> bytes:
    """The chunks of an output from the windows of the output ports: port i holds part i of each."""
    part_bytes = 2 * arch.lanes // arch.output_ports
    split = [np.frombuffer(part, np.uint8).reshape(-1, part_bytes) for part in parts]
    return np.stack(split, axis=1).tobytes()


def outputs_index(arch: ArchConfig, shapes: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Position of every code [codes] of several outputs [rows, columns] in their window."""
    starts = output_offsets(arch, shapes)
    parts = [
        output_index(arch, *shape).reshape(-1) + start * arch.lanes
        for start, shape in zip(starts, shapes, strict=False)
    ]
    return np.concatenate(parts)


def unpack_outputs(
    arch: ArchConfig, raw: bytes, shapes: Sequence[tuple[int, int]]
) -> NDArray[np.int16]:
    """Undo the drain order: bytes of all chunks of outputs [rows, columns] to int16 [codes]."""
    codes = np.frombuffer(raw, "<i2")
    return codes[outputs_index(arch, shapes)].astype(np.int16)


def split_ports(arch: ArchConfig, image: bytes) -> list[bytes]:
    """Distribute a weight image over the ports: port i gets bytes i of every line.

    ``image`` must be whole lines.
    """
    lines = np.frombuffer(image, np.uint8).reshape(-1, arch.weight_ports, arch.weight_port_bytes)
    return [lines[:, port].tobytes() for port in range(arch.weight_ports)]


def join_ports(arch: ArchConfig, parts: Sequence[bytes]) -> bytes:
    """Inverse of :func:`split_ports`."""
    split = [np.frombuffer(part, np.uint8).reshape(-1, arch.weight_port_bytes) for part in parts]
    return np.stack(split, axis=1).tobytes()
