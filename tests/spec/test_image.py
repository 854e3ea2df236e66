"""The device image: what is written is read back, and its layout is what the driver relies on."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest

from moesaic.spec import image
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS
from moesaic.spec.registers import WINDOW_ALIGNMENT


def made(name: str, lines: int = 5) -> tuple[bytes, dict[str, image.ImageTask], bytes]:
    arch = PRESETS[name]
    rng = np.random.default_rng(lines)
    weights = rng.bytes(lines * arch.line_bytes)
    tasks = {
        "seg": image.ImageTask(rng.bytes(96), rng.bytes(5000), 4, 17, ((3, 9), (2, 40))),
        "depth": image.ImageTask(rng.bytes(32), rng.bytes(16), 1, 1, ((1, 1),), 4096),
    }
    return weights, tasks, image.build_image(arch, weights, tasks)


@pytest.mark.parametrize("name", PRESETS)
def test_image_is_read_back(name: str) -> None:
    weights, tasks, raw = made(name)
    assert image.read_image(PRESETS[name], raw) == (weights, tasks)


def test_sections_are_aligned_apart_and_summed() -> None:
    _, _, raw = made("zcu102")
    header = np.frombuffer(raw, image.HEADER, 1)[0]
    sections = np.frombuffer(raw, image.SECTION, header["section_count"], image.HEADER.itemsize)
    end = int(header["table_bytes"])
    for row in sections:
        start = int(row["offset"])
        assert start % WINDOW_ALIGNMENT == 0 and start >= end
        assert not any(raw[end:start])
        end = start + int(row["bytes"])
        assert zlib.crc32(raw[start:end]) == row["crc"]
    assert end == header["total_bytes"] == len(raw)


def test_records_have_no_hidden_padding() -> None:
    for record in (image.HEADER, image.SECTION, image.TASK):
        assert record.itemsize == sum(record.fields[name][0].itemsize for name in record.names)
        assert record.itemsize % 8 == 0


def test_too_many_tasks_and_long_names_are_refused() -> None:
    weights, tasks, _ = made("nano")
    task = dataclasses.replace(tasks["seg"])
    with pytest.raises(UserError, match="at most 16 programs"):
        image.build_image(PRESETS["nano"], weights, {f"t{i}": task for i in range(17)})
    with pytest.raises(UserError, match="too long"):
        image.build_image(PRESETS["nano"], weights, {"t" * 32: task})
