"""Layouts: what is packed comes back, where it belongs, whatever the sizes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesaic.spec import formats, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.presets import PRESETS

NARROW = dataclasses.replace(
    PRESETS["nano"], depth=8, width=32, lanes=4, residual_bytes=8 << 10, data_port_bytes=8
)
SPREAD = dataclasses.replace(
    NARROW, weight_ports=4, weight_port_bytes=4, data_port_bytes=4, output_ports=2
)
ARCHS = [*PRESETS.values(), NARROW, SPREAD]
archs = st.sampled_from(ARCHS)
seeds = st.integers(0, 2**32 - 1)


@given(st.integers(0, 10**6), st.integers(1, 300))
def test_words_hold_the_values_and_no_word_is_empty(values: int, per_word: int) -> None:
    count = layout.words(values, per_word)
    assert count * per_word >= values > (count - 1) * per_word


@given(archs, st.integers(1, 40), seeds)
def test_ports_are_joined_as_they_were_split(arch: ArchConfig, lines: int, seed: int) -> None:
    image = np.random.default_rng(seed).bytes(lines * arch.line_bytes)
    parts = layout.split_ports(arch, image)
    assert [len(part) for part in parts] == [lines * arch.weight_port_bytes] * arch.weight_ports
    assert layout.join_ports(arch, parts) == image
    for port, part in enumerate(parts):  # port i holds bytes i of every line
        for line in range(lines):
            start = line * arch.line_bytes + port * arch.weight_port_bytes
            size = arch.weight_port_bytes
            assert part[line * size : (line + 1) * size] == image[start : start + size]


@pytest.mark.parametrize("arch", [a for a in ARCHS if a.line_bytes > 1], ids=lambda a: a.name)
def test_a_part_of_a_line_is_no_image(arch: ArchConfig) -> None:
    assert layout.split_ports(arch, b"") == [b""] * arch.weight_ports
    for size in (1, arch.line_bytes - 1, arch.line_bytes + 1):
        with pytest.raises(ValueError):
            layout.split_ports(arch, bytes(size))


@given(archs, st.integers(1, 9), st.integers(1, 300), seeds)
def test_inputs_are_rows_of_whole_words(
    arch: ArchConfig, rows: int, inputs: int, seed: int
) -> None:
    patches = np.random.default_rng(seed).integers(-128, 128, (rows, inputs)).astype(np.int8)
    raw = layout.pack_input(arch, patches)
    words = np.frombuffer(raw, np.int8).reshape(rows, layout.words(inputs, arch.depth), arch.depth)
    flat = words.reshape(rows, -1)
    assert (flat[:, :inputs] == patches).all() and not flat[:, inputs:].any()


@given(archs, st.integers(1, 9), st.integers(1, 300), seeds)
def test_residuals_are_rows_of_whole_words(
    arch: ArchConfig, rows: int, channels: int, seed: int
) -> None:
    values = np.random.default_rng(seed).integers(-32768, 32768, (rows, channels)).astype(np.int16)
    raw = layout.pack_residual(arch, values)
    words = layout.words(channels, arch.lanes)
    assert len(raw) == rows * words * 2 * arch.lanes
    flat = np.frombuffer(raw, "<i2").reshape(rows, -1)
    assert (flat[:, :channels] == values).all() and not flat[:, channels:].any()


def drained(arch: ArchConfig, codes: np.ndarray) -> bytes:
    """The chunks as the store unit gets them, by the loop nest of DRAIN."""
    rows, columns = codes.shape
    out = []
    for tile in range(0, columns, arch.width):
        for row in range(rows):
            for chunk in range(tile, min(tile + arch.width, columns), arch.lanes):
                values = codes[row, chunk : chunk + arch.lanes]
                out.append(np.pad(values, (0, arch.lanes - len(values)), constant_values=-1))
    return np.concatenate(out).astype("<i2").tobytes()


@given(archs, st.integers(1, 7), st.integers(1, 200), seeds)
def test_outputs_are_read_in_the_order_in_which_they_are_drained(
    arch: ArchConfig, rows: int, columns: int, seed: int
) -> None:
    codes = np.random.default_rng(seed).integers(-32768, 32768, (rows, columns)).astype(np.int16)
    raw = drained(arch, codes)
    assert len(raw) == layout.output_chunks(arch, rows, columns) * 2 * arch.lanes
    part = 2 * arch.lanes // arch.output_ports
    split = np.frombuffer(raw, np.uint8).reshape(-1, arch.output_ports, part)
    parts = [split[:, port].tobytes() for port in range(arch.output_ports)]
    assert layout.join_outputs(arch, parts) == raw
    got = layout.unpack_outputs(arch, raw, [(rows, columns)])
    assert got.dtype == np.int16 and (got == codes.reshape(-1)).all()
    index = layout.output_index(arch, rows, columns)
    assert len(np.unique(index)) == rows * columns
    more = np.arange(3 * 5, dtype=np.int16).reshape(3, 5)
    both = layout.unpack_outputs(arch, drained(arch, more) + raw, [(3, 5), (rows, columns)])
    assert np.array_equal(both, [*more.reshape(-1), *codes.reshape(-1)])


def test_parameter_entries_are_as_the_gateware_takes_them_apart() -> None:
    record, bit = layout.PARAMETER_ENTRY, 0
    assert list(record.names or ()) == list(formats.PARAMETER)
    for name, bits in formats.PARAMETER.items():
        field, offset = (record.fields or {})[name][:2]
        assert (8 * offset, 8 * field.itemsize) == (bit, bits)
        bit += bits
    assert record.itemsize == formats.PARAMETER_BYTES == 8
