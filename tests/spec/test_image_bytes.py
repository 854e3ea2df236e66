"""The device image byte by byte, as a driver without numpy reads it."""

from __future__ import annotations

import hashlib
import struct
import zlib

import numpy as np
import pytest

from moesaic.spec import image, isa, layout, scratch
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph

HEADER = struct.Struct("<IIQ10IQ32s")
SECTION = struct.Struct("<IIQQII")
TASK = struct.Struct("<32s68I")


def shapes(count: int) -> tuple[tuple[int, int], ...]:
    """Rows and columns of several outputs."""
    return tuple((5 + n, 7 + count) for n in range(count + 1))


def made(name: str, names: list[str]) -> tuple[bytes, dict[str, image.ImageTask], bytes]:
    rng = np.random.default_rng(len(names))
    weights = rng.bytes(3 * PRESETS[name].line_bytes)
    tasks = {
        task: image.ImageTask(
            rng.bytes(32 * (i + 1)), rng.bytes(4095 + i), 2 + i, 3, shapes(i), 64 * i
        )
        for i, task in enumerate(names)
    }
    return weights, tasks, image.build_image(PRESETS[name], weights, tasks)


@pytest.mark.parametrize("name", PRESETS)
def test_every_number_of_the_tables(name: str) -> None:
    arch = PRESETS[name]
    weights, tasks, raw = made(name, ["seg", "depth", "flow"])
    fields = HEADER.unpack_from(raw)
    sections, count = arch.weight_ports + 2 * len(tasks), len(tasks)
    table_bytes = HEADER.size + sections * SECTION.size + count * TASK.size
    assert fields[:4] == (image.MAGIC, image.IMAGE_VERSION, len(raw), table_bytes)
    zeroed = raw[:20] + bytes(4) + raw[24:table_bytes]
    assert fields[4] == zlib.crc32(zeroed)
    assert fields[5:8] == (arch.hash, sections, count)
    sizes = (arch.depth, arch.width, arch.lanes, arch.weight_ports, arch.output_ports)
    assert fields[8:14] == (*sizes, 0)
    assert fields[14] == hashlib.sha256(raw[table_bytes:]).digest()

    expected = [(0, port, part) for port, part in enumerate(layout.split_ports(arch, weights))]
    for index, task in enumerate(tasks.values()):
        expected += [(1, index, task.program), (2, index, task.constants)]
    end = table_bytes
    for i, (kind, index, data) in enumerate(expected):
        start = -(-end // 4096) * 4096
        end = start + len(data)
        row = SECTION.unpack_from(raw, HEADER.size + i * SECTION.size)
        assert row == (kind, index, start, len(data), zlib.crc32(data), 0)
        assert raw[start:end] == data
    assert end == len(raw)
    for i, (task_name, task) in enumerate(tasks.items()):
        entry = TASK.unpack_from(raw, HEADER.size + sections * SECTION.size + i * TASK.size)
        outputs = [number for shape in task.outputs for number in shape]
        numbers = (
            task.input_rows,
            task.inputs,
            i + 1,
            64 * i,
            *outputs,
            *[0] * (64 - len(outputs)),
        )
        assert entry == (task_name.encode().ljust(32, b"\0"), *numbers)


def test_magic_is_four_letters() -> None:
    assert image.MAGIC.to_bytes(4, "little") == b"MOMI"


@pytest.mark.parametrize("name", ["x", "x" * 31, "ü" * 15 + "x"])
def test_names_up_to_31_bytes_come_back(name: str) -> None:
    weights, tasks, raw = made("nano", [name])
    assert image.read_image(PRESETS["nano"], raw) == (weights, tasks)


@pytest.mark.parametrize("name", ["x" * 32, "ü" * 16])
def test_names_of_more_bytes_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"task name {name!r} is too long: at most 31 bytes"):
        made("nano", [name])


def test_sixteen_tasks_fit_and_seventeen_do_not() -> None:
    names = [f"t{i}" for i in range(17)]
    weights, tasks, raw = made("nano", names[:16])
    assert image.read_image(PRESETS["nano"], raw) == (weights, tasks)
    with pytest.raises(UserError, match="a bundle holds at most 16 programs, not 17"):
        made("nano", names)


def test_task_of_a_graph_has_its_shapes() -> None:
    graph = random_intgraph(
        Shape(patches=8, patch_inputs=20, head_rows=6, outputs=30, taps=0.0), seed=2
    )
    arch = PRESETS["zcu102"]
    task = image.ImageTask.of(arch, graph, b"program", b"constants")
    assert task == image.ImageTask(b"program", b"constants", 8, 20, ((6, 30),))


def test_scratch_ends_where_single_stores_do() -> None:
    """Those of an output that is spread over the ports are no scratch, wherever they are."""
    arch, outputs = PRESETS["zcu102"], ((6, 30), (2, 30))
    part = 8 * 2 * arch.lanes // arch.output_ports
    assert (scratch.port_bytes(arch, outputs), scratch.first_byte(arch, outputs)) == (part, 128)
    stores = [(128, 3, 1), (1 << 20, 9, 0), (640, 2, 1), (256, 1, 1)]
    program = b"".join(
        isa.encode(isa.Opcode.STORE, offset=offset, words=words, single=single)
        for offset, words, single in stores
    )
    program += isa.encode(isa.Opcode.END)
    assert scratch.scratch_bytes(arch, program, outputs) == 640 + 2 * 2 * arch.lanes - part
