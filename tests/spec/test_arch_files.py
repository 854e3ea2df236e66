"""Target files as people and programs get them wrong: one sentence, never a traceback."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.presets import PRESETS, load_arch

NANO = PRESETS["nano"].to_dict()


def refusal(target: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        load_arch(str(target))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_a_file_gives_back_every_field(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    for arch in PRESETS.values():
        other = dataclasses.replace(arch, name="mine", device="a part", queue_depth=64)
        path.write_text(json.dumps(other.to_dict()), encoding="utf-8")
        assert load_arch(str(path)) == other
        assert load_arch(arch.name) is arch


def test_fields_with_a_default_may_be_left_out() -> None:
    optional = [f for f in dataclasses.fields(ArchConfig) if f.default is not dataclasses.MISSING]
    assert len(optional) == 14
    fields = {k: v for k, v in NANO.items() if k not in {f.name for f in optional}}
    arch = ArchConfig.from_dict(fields)
    assert all(getattr(arch, f.name) == f.default for f in optional)


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(ArchConfig) if f.default is dataclasses.MISSING]
)
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(UserError, match=f"^ArchConfig is incomplete: it has no {field};"):
        ArchConfig.from_dict({k: v for k, v in NANO.items() if k != field})


@pytest.mark.parametrize("field", ["dpeth", "", "x" * 10_000, "self"])
def test_an_unknown_field_is_named(field: str) -> None:
    with pytest.raises(UserError, match="^ArchConfig has no field '") as caught:
        ArchConfig.from_dict({**NANO, field: 1})
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("value", [None, [], "nano", 3, [["depth", 16]]])
def test_what_is_no_dictionary_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match="^ArchConfig must be an object with fields, not "):
        ArchConfig.from_dict(value)


def _with(**changes: Any) -> bytes:
    return json.dumps({**NANO, **changes}).encode()


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be read: Expecting value"),
    "no JSON": (b"depth = 16", "cannot be read: Expecting value"),
    "cut short": (_with()[:100], "cannot be read: "),
    "not UTF-8": (b'{"name": "\xff"}', "cannot be read: 'utf-8' codec can't decode"),
    "UTF-16": (json.dumps(NANO).encode("utf-16"), "cannot be read: 'utf-8' codec can't decode"),
    "list": (b"[1, 2]", "must hold a JSON object"),
    "string": (b'"nano"', "must hold a JSON object"),
    "null": (b"null", "must hold a JSON object"),
    "brackets": (b"[" * 60_000, "its brackets are nested too deeply"),
    "braces": (b'{"a":' * 12_000, "its brackets are nested too deeply"),
    "200,000 brackets": (b"[" * 200_000, "it has more than 65536 bytes"),
    "a byte too many": (_with().ljust(65537), "it has more than 65536 bytes"),
    "twice": (b'{"depth": 16, "width": 16, "depth": 8}', "field 'depth' stands there twice"),
    "NaN": (_with(depth=float("nan")), "ArchConfig depth must be a power of two, not nan"),
    "infinite": (_with(depth=float("inf")), "ArchConfig depth must be a power of two, not inf"),
    "float": (_with(depth=16.0), "ArchConfig depth must be a power of two, not 16.0"),
    "string number": (_with(depth="16"), "ArchConfig depth must be a power of two, not '16'"),
    "true": (_with(queue_depth=True), "ArchConfig queue_depth must be a power of two, not True"),
    "object": (_with(lanes={}), "ArchConfig lanes must be a power of two, not {}"),
    "10^5000": (_with(depth=0).replace(b'"depth": 0', b'"depth": 1' + b"0" * 5000),
                "cannot be read: Exceeds the limit"),
    "2^4000": (_with(ring_bytes=1 << 4000), "ring_bytes must be 128 to 67108864, not a number of"),
    "name": (_with(name="../../x"), "name must be 1 to 64 letters"),
}  # fmt: skip


@pytest.mark.parametrize("content, reason", FILES.values(), ids=FILES)
def test_a_bad_file_is_named_with_its_fault(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(f"target file {path}") and reason in message


def test_the_largest_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(_with().ljust(65536))
    assert load_arch(str(path)) == PRESETS["nano"]


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "zero"):
        assert "it is no plain file" in refusal(tmp_path / f"{name}.json")
    (tmp_path / "broken.json").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "absent.json", tmp_path / "broken.json"):
        assert "No such file" in refusal(path)
    assert "cannot be read" in refusal("a" * 300 + ".json")
    assert "cannot be read" in refusal("a\0.json")


@pytest.mark.parametrize("name", ["mars", "", "NANO", "nano.jsn", "/dev/zero"])
def test_an_unknown_target_shows_what_there_is(name: str) -> None:
    message = refusal(name)
    assert repr(name) in message and all(preset in message for preset in PRESETS)
