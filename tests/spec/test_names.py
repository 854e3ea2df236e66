"""Small lists that several parts rely on: results, parts, kinds of layers, tables, formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moesaic.spec import formats, layers, parts, results, semantics, tables
from moesaic.spec.isa import Drain, Opcode


def test_every_result_has_a_text_that_fits_a_c_string() -> None:
    assert sorted(results.Result) == list(range(len(results.Result)))
    assert results.Result.OK == 0 and set(results.RESULT_DOCS) == set(results.Result)
    texts = list(results.RESULT_DOCS.values())
    assert len(set(texts)) == len(texts)
    assert not any('"' in text or "\\" in text or "*/" in text or not text for text in texts)


def test_parts_have_what_their_family_counts() -> None:
    assert set(parts.REFERENCE_PARTS) == set(parts.FAMILIES)
    for part in parts.PARTS.values():
        assert tuple(part.capacity) == parts.FAMILIES[part.family]
    for family, name in parts.REFERENCE_PARTS.items():
        assert parts.PARTS[name].family == family


@pytest.mark.parametrize("name", parts.PARTS)
def test_a_part_keeps_the_rules_of_a_part_file(name: str, tmp_path: Path) -> None:
    part = parts.PARTS[name]
    about: dict[str, object] = {"family": part.family, **part.capacity}
    about |= {"ports": part.ports, "port_bytes": part.port_bytes, "max_burst": part.max_burst}
    about["secure"] = part.secure
    (tmp_path / "mine.json").write_text(json.dumps(about))
    assert parts.load_part(str(tmp_path / "mine.json")) == ("mine", part)


def test_parts_are_found_by_their_own_names() -> None:
    """Also where the name of one begins with that of another, which must come later."""
    assert all(parts.known_part(name) == name == name.lower() for name in parts.PARTS)
    assert set(parts.ALIASES.values()) <= set(parts.PARTS)
    assert set(parts.ASSUMED_CLOCK_MHZ) == set(parts.FAMILIES)


@pytest.mark.parametrize(
    "device, family, part",
    [
        ("xczu9eg-ffvb1156-2-e", "xcup", "xczu9eg"),
        ("XCZU9EG", "xcup", "xczu9eg"),
        ("xczu9eg", "ecp5", "lfe5u-85"),
        ("LFE5U-85F-6BG381C", "ecp5", "lfe5u-85"),
        ("lfe5u-85", "xcup", "xczu9eg"),
        ("any", "ecp5", "lfe5u-85"),
        ("a xczu9eg", "xcup", "xczu9eg"),
        ("", "xcup", "xczu9eg"),
    ],
)
def test_part_of_a_device(device: str, family: str, part: str) -> None:
    assert parts.find_part(device, family) == part


def test_a_device_has_the_part_that_its_name_begins_with(monkeypatch: pytest.MonkeyPatch) -> None:
    other = parts.Part("xcup", dict(parts.PARTS["xczu9eg"].capacity))
    monkeypatch.setitem(parts.PARTS, "xcku5p", other)
    assert parts.find_part("XCKU5P-ffvb676", "xcup") == "xcku5p"
    assert parts.find_part("on xcku5p", "xcup") == "xczu9eg"


@pytest.mark.parametrize(
    "instructions, kind",
    [
        ([(Opcode.LOAD, 0), (Opcode.DRAIN, Drain.RESIDUAL)], "embed"),
        ([(Opcode.LOAD, 0), (Opcode.NORM, 0), (Opcode.STORE, 0)], "embed"),
        ([(Opcode.NORM, 0), (Opcode.LOAD, 0), (Opcode.DRAIN, Drain.RESIDUAL)], "renorm"),
        ([(Opcode.STORE, 0), (Opcode.DRAIN, Drain.OUTPUT)], "head"),
        ([(Opcode.NORM, 0), (Opcode.DRAIN, Drain.SOFTMAX)], "attention"),
        ([(Opcode.LOAD, 1), (Opcode.STORE, 0), (Opcode.DRAIN, Drain.SOFTMAX)], "attention"),
        ([(Opcode.DRAIN, Drain.ACTIVATION), (Opcode.DRAIN, Drain.RESIDUAL)], "dense"),
        ([(Opcode.NORM, int(Drain.SOFTMAX)), (Opcode.DRAIN, Drain.ACTIVATION)], "dense"),
        ([(Opcode.LOAD, 1), (Opcode.STORE, 0), (Opcode.DRAIN, Drain.ACTIVATION)], "dense"),
        ([(Opcode.LOAD, 2), (Opcode.ROUTE, 0), (Opcode.DRAIN, Drain.ACTIVATION)], "moe"),
        ([(Opcode.LOAD, 0), (Opcode.ROUTE, 0), (Opcode.DRAIN, Drain.ACTIVATION)], "dense"),
    ],
)
def test_kind_of_a_layer(instructions: list[tuple[Opcode, int]], kind: str) -> None:
    assert layers.layer_kind(iter(instructions)) == kind and kind in layers.KINDS


@pytest.mark.parametrize(
    "ends, total, cycles",
    [
        ([10, 25, 40], 50, [10, 15, 25]),
        ([10, 5, 40], 50, [10, 0, 40]),
        ([10, 25, 40], 30, [10, 15, 5]),
        ([2.5, 3.5], 4.5, [2, 2]),
        ([7], 9, [9]),
        ([], 9, []),
    ],
)
def test_cycles_of_layers_add_up_to_the_frame(
    ends: list[float], total: float, cycles: list[int]
) -> None:
    assert layers.layer_cycles(ends, total) == cycles
    assert not cycles or sum(cycles) == round(total)


def test_tables_fit_the_bits_that_the_gateware_gives_them() -> None:
    assert len(tables.EXP2_TABLE) == 1 << tables.EXP2_FRACTION_BITS == 128
    assert tables.EXP2_TABLE[0] == 255 * 256 and min(tables.EXP2_TABLE) > 255 * 256 // 2
    assert len(tables.RECIPROCAL_TABLE) == 1 << tables.RECIPROCAL_INDEX_BITS
    assert len(tables.RSQRT_TABLE) == 1 << tables.RSQRT_INDEX_BITS
    for table in (tables.EXP2_TABLE, tables.RECIPROCAL_TABLE, tables.RSQRT_TABLE):
        assert all(a >= b for a, b in zip(table, table[1:], strict=False))
        assert 0 < min(table) and max(table) < 1 << 16


def test_formats_are_those_of_the_documents() -> None:
    assert semantics.ONE_Q15 == formats.ONE_Q15 == 1 << 15
    assert formats.GATE_BITS == 16 and formats.ADDEND_BITS == formats.LOGIT_BITS == 24
    assert (formats.MULTIPLIER_BITS, formats.SHIFT_BITS, formats.PROBABILITY_BITS) == (16, 6, 8)
