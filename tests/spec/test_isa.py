"""Instructions in and out of their bits: every field at its ends, and everything malformed."""

from __future__ import annotations

import random
from functools import reduce
from operator import xor
from typing import Any

import pytest

from moesaic.spec import isa
from moesaic.spec.errors import UserError
from moesaic.spec.isa import Opcode, Unit

FIELDS = [
    (opcode, field) for opcode in Opcode for field in isa.fields(opcode) if field.name != "check"
]
PAYLOAD = [(opcode, field) for opcode, field in FIELDS if field.name != "opcode"]
IDS = [f"{opcode.name}-{field.name}" for opcode, field in PAYLOAD]


def least(opcode: Opcode) -> dict[str, int]:
    """The fields that must not be 0, at 1."""
    return {f.name: 1 for f in isa.fields(opcode) if f.nonzero or f.nonzero_unless}


def most(opcode: Opcode, field: isa.Field) -> int:
    """The largest value that is defined."""
    listed = isa.ENUMS.get((opcode, field.name))
    return max(listed) if listed is not None else (1 << field.width) - 1


def seal(word: int) -> bytes:
    """The bytes of ``word`` with a good check byte: what is wrong with it is something else."""
    start, width = isa.positions(Opcode.END)["check"]
    word &= ~((1 << width) - 1 << start)
    check = reduce(xor, word.to_bytes(isa.INSTRUCTION_BYTES, "little"), isa.CHECK_VALUE)
    return (word | check << start).to_bytes(isa.INSTRUCTION_BYTES, "little")


def place(opcode: Opcode, values: dict[str, int]) -> bytes:
    """Encoding by hand, without any rule but the positions."""
    where = isa.positions(opcode)
    return seal(sum(v << where[n][0] for n, v in {"opcode": int(opcode), **values}.items()))


def refused(raw: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        isa.decode(raw)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opcode", Opcode)
def test_fields_follow_each_other_without_gap_or_overlap(opcode: Opcode) -> None:
    bit = 0
    for field in isa.fields(opcode):
        assert isa.positions(opcode)[field.name] == (bit, field.width)
        assert isa.width(opcode, field.name) == field.width > 0
        bit += field.width
    assert isa.used_bits(opcode) == bit <= 8 * isa.INSTRUCTION_BYTES
    names = [field.name for field in isa.fields(opcode)]
    assert len(set(names)) == len(names)
    assert names[: len(isa.HEADER)] == ["opcode", "wait", "signal", "layer", "check"]
    assert sum(field.width for field in isa.HEADER) == 32


def test_names_in_rules_exist_and_masks_have_a_bit_for_every_unit() -> None:
    for opcode in Opcode:
        names = {field.name for field in isa.fields(opcode)}
        assert isa.width(opcode, "wait") == isa.width(opcode, "signal") == isa.UNIT_COUNT
        assert all(f.nonzero_unless in names for f in isa.fields(opcode) if f.nonzero_unless)
        for other, name in isa.ENUMS:
            assert other is not opcode or name in names
    assert sorted(Unit) == list(range(isa.UNIT_COUNT))
    assert set(isa.UNIT_OF) == set(Opcode)
    assert {unit for unit in isa.UNIT_OF.values() if unit is not None} == set(Unit)
    for (opcode, name), listed in isa.ENUMS.items():
        assert max(listed) < 1 << isa.width(opcode, name)
    assert max(Opcode) < 1 << isa.HEADER[0].width and min(Opcode) > 0


@pytest.mark.parametrize("opcode, field", PAYLOAD, ids=IDS)
def test_every_field_at_both_ends(opcode: Opcode, field: isa.Field) -> None:
    required = field.name in least(opcode)
    for value in ({1} if required else {0, 1}) | {most(opcode, field)}:
        raw = isa.encode(opcode, **{**least(opcode), field.name: value})
        assert raw == place(opcode, {**least(opcode), field.name: value})
        assert len(raw) == isa.INSTRUCTION_BYTES and reduce(xor, raw) == isa.CHECK_VALUE
        found = isa.decode(raw)
        assert found.opcode is opcode
        expected = {f.name: 0 for f in isa.fields(opcode) if f.name != "check"}
        assert found.values == {
            **expected, "opcode": opcode, **least(opcode), field.name: value
        }  # fmt: skip


@pytest.mark.parametrize("opcode, field", PAYLOAD, ids=IDS)
@pytest.mark.parametrize("beyond", ["one", "many", "below"])
def test_what_a_field_cannot_hold_is_refused(opcode: Opcode, field: isa.Field, beyond: str) -> None:
    value = {"one": 1 << field.width, "many": 1 << 300, "below": -1}[beyond]
    rule = f"{opcode.name} field {field.name} must be below {1 << field.width}, not {value}"
    with pytest.raises(UserError, match=rule):
        isa.encode(opcode, **{**least(opcode), field.name: value})


@pytest.mark.parametrize("opcode", Opcode)
def test_random_instructions_come_back(opcode: Opcode) -> None:
    draw = random.Random(opcode.value)
    for _ in range(200):
        values = {
            field.name: draw.randint(0, most(opcode, field)) or least(opcode).get(field.name, 0)
            for field in isa.fields(opcode)
            if field.name not in ("opcode", "check")
        }
        raw = isa.encode(opcode, **values)
        assert raw == place(opcode, values)
        assert isa.decode(raw).values == {"opcode": opcode, **values}


@pytest.mark.parametrize("opcode", Opcode)
def test_every_reserved_bit_is_refused(opcode: Opcode) -> None:
    good = int.from_bytes(isa.encode(opcode, **least(opcode)), "little")
    for bit in range(isa.used_bits(opcode), 8 * isa.INSTRUCTION_BYTES):
        refused(seal(good | 1 << bit), f"{opcode.name} with reserved bits set")


@pytest.mark.parametrize("opcode", Opcode)
def test_every_flipped_bit_is_refused_by_the_check_byte(opcode: Opcode) -> None:
    good = int.from_bytes(isa.encode(opcode, **least(opcode)), "little")
    for bit in range(8 * isa.INSTRUCTION_BYTES):
        raw = (good ^ 1 << bit).to_bytes(isa.INSTRUCTION_BYTES, "little")
        refused(raw, "damaged instruction: compile the bundle again")


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_another_length_is_refused(size: int) -> None:
    raw = isa.encode(Opcode.END)
    # XOR of what is there stays the check value.
    padded = (
        (raw + bytes(64))[:size] if size > 32 else bytes(max(size - 1, 0)) + b"\x5a" * (size > 0)
    )
    refused(padded, "damaged instruction")


@pytest.mark.parametrize("value", sorted(set(range(16)) - {int(opcode) for opcode in Opcode}))
def test_unlisted_opcodes_are_refused(value: int) -> None:
    refused(seal(value), f"unknown opcode: {value} is not a valid Opcode")


UNDEFINED = [
    (opcode, name, value)
    for (opcode, name), listed in isa.ENUMS.items()
    for value in set(range(1 << isa.width(opcode, name))) - {int(v) for v in listed}
]


@pytest.mark.parametrize("opcode, name, value", UNDEFINED)
def test_undefined_values_are_refused(opcode: Opcode, name: str, value: int) -> None:
    refused(place(opcode, {**least(opcode), name: value}), f"whose {name} is undefined: {value}")


REQUIRED = [(opcode, field) for opcode, field in PAYLOAD if field.name in least(opcode)]


@pytest.mark.parametrize("opcode, field", REQUIRED, ids=[f"{o.name}-{f.name}" for o, f in REQUIRED])
def test_forbidden_zeros_are_refused(opcode: Opcode, field: isa.Field) -> None:
    values = {**least(opcode), field.name: 0}
    refused(place(opcode, values), f"a {opcode.name} whose {field.name} is 0")
    with pytest.raises(AssertionError, match=f"{opcode.name} field {field.name} must not be 0"):
        isa.encode(opcode, **values)
    del values[field.name]
    with pytest.raises(AssertionError, match=f"{opcode.name} field {field.name} must not be 0"):
        isa.encode(opcode, **values)
    if field.nonzero_unless:
        excused = {**values, field.name: 0, field.nonzero_unless: 1}
        assert isa.decode(isa.encode(opcode, **excused)).values[field.name] == 0


@pytest.mark.parametrize("name", ["check", "rows", "Opcode", ""])
def test_fields_that_an_instruction_does_not_have_are_refused(name: str) -> None:
    values: dict[str, Any] = {name: 1}
    with pytest.raises(AssertionError, match=f"STREAM has no field {name!r}"):
        isa.encode(Opcode.STREAM, words=1, **values)


def test_instruction_is_shown_by_names() -> None:
    drain = isa.encode(
        Opcode.DRAIN, kind=isa.Drain.SOFTMAX, rows=3, n_tiles=1, groups=2, columns=4,
        wait=1 << Unit.MATRIX | 1 << Unit.LOAD, signal=1 << Unit.STREAM,
    )  # fmt: skip
    assert str(isa.decode(drain)) == (
        "DRAIN wait=MATRIX+LOAD signal=STREAM kind=SOFTMAX rows=3 n_tiles=1 groups=2 columns=4"
    )
    assert str(isa.decode(isa.encode(Opcode.END))) == "END"


def test_an_instruction_that_outgrows_its_bytes_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    room = 8 * isa.INSTRUCTION_BYTES - 32
    monkeypatch.setitem(isa.FIELDS, Opcode.END, (isa.Field("wide", room, ""),))
    assert isa.used_bits(Opcode.END) == 256 and isa.positions(Opcode.END)["wide"] == (32, room)
    monkeypatch.setitem(isa.FIELDS, Opcode.END, (isa.Field("wide", room + 1, ""),))
    with pytest.raises(AssertionError, match="END takes 257 bits"):
        isa.positions(Opcode.END)
