"""The register map by itself: places, kinds, fields, windows and counters."""

from __future__ import annotations

import pytest

from moesaic.spec import generate, isa, registers
from moesaic.spec.arch import ADDRESS_BITS
from moesaic.spec.registers import REGISTERS, Access, ErrorCode

BY_NAME = {register.name: register for register in REGISTERS}
WINDOWS = [
    *(window.name for window in isa.Window),
    *(f"OUTPUT{port}" for port in range(1, registers.MAX_OUTPUT_PORTS)),
    *(f"WEIGHT{port}" for port in range(registers.MAX_WEIGHT_PORTS)),
]


def test_registers_are_apart_aligned_in_order_and_inside_the_map() -> None:
    offsets = [register.offset for register in REGISTERS]
    assert offsets == sorted(set(offsets))
    assert not any(offset % registers.REGISTER_BYTES for offset in offsets)
    assert offsets[0] == 0 and offsets[-1] < 1 << registers.OFFSET_BITS
    assert len(BY_NAME) == len(REGISTERS)
    assert all(register.doc and register.name.isupper() for register in REGISTERS)


def test_fields_are_apart_inside_their_register() -> None:
    for register in REGISTERS:
        taken = [bit for f in register.fields for bit in range(f.bit, f.bit + f.width)]
        assert len(set(taken)) == len(taken)
        assert all(0 <= bit < 8 * registers.REGISTER_BYTES for bit in taken)
        if register.fields:
            assert registers.used_bits(register.name) == max(taken) + 1


def test_access_is_what_software_relies_on() -> None:
    def named(access: Access) -> set[str]:
        return {register.name for register in REGISTERS if register.access is access}

    parts = {f"{window}_{part}" for window in WINDOWS for part in ("BASE_LO", "BASE_HI", "SIZE")}
    assert named(Access.RW) == parts | {"IRQ_ENABLE", "WATCHDOG"}
    assert named(Access.W1C) == {"IRQ_STATUS"}
    assert named(Access.WO) == {"CONTROL"}
    counters = {f"{name}_{half}" for name, _ in registers.COUNTERS for half in ("LO", "HI")}
    fixed = {"ID", "VERSION", "ARCH_HASH", "STATUS", "ERROR", "ERROR_INFO"}
    assert named(Access.RO) == counters | fixed


def test_windows_are_a_stride_apart_and_hold_an_address() -> None:
    for window in WINDOWS:
        low = registers.offset(f"{window}_BASE_LO")
        assert registers.offset(f"{window}_BASE_HI") == low + registers.REGISTER_BYTES
        assert registers.offset(f"{window}_SIZE") == low + 2 * registers.REGISTER_BYTES
        assert low % registers.WINDOW_STRIDE == 0
        doc = BY_NAME[f"{window}_BASE_HI"].doc
        assert doc.endswith(f"bits {ADDRESS_BITS - 1}..{8 * registers.REGISTER_BYTES}")
    for first, count in (("WEIGHT0", registers.MAX_WEIGHT_PORTS), ("OUTPUT", 8)):
        start = registers.offset(f"{first}_BASE_LO")
        for port in range(1, count):
            name = f"{first.rstrip('0')}{port}_BASE_LO"
            assert registers.offset(name) == start + port * registers.WINDOW_STRIDE
    assert registers.WINDOW_ALIGNMENT == 4096  # what AXI4 bursts must not cross


def test_counters_are_a_stride_apart_and_documented_once() -> None:
    names = [name for name, _ in registers.COUNTERS]
    assert len(set(names)) == len(names)
    for index, name in enumerate(names):
        low = registers.COUNTER_BASE + registers.COUNTER_STRIDE * index
        assert registers.offset(f"{name}_LO") == low
        assert registers.offset(f"{name}_HI") == low + registers.REGISTER_BYTES
        assert f"{registers.COUNTER_BITS - 1}..32" in BY_NAME[f"{name}_HI"].doc
    for unit in isa.Unit:
        assert {f"{unit.name}_{kind}" for kind in ("BUSY", "WAIT_TOKEN", "STALL")} <= set(names)


def test_masters_in_error_info_have_numbers_of_their_own() -> None:
    assert registers.FETCH_MASTER not in set(isa.Unit)
    doc = BY_NAME["ERROR_INFO"].doc
    for name, number in (("stream", 0), ("load", 4), ("store", 5), ("fetch", 6)):
        assert f"{name} {number}" in doc
    assert registers.FETCH_MASTER == 6


def test_single_bits_have_their_masks() -> None:
    for register in REGISTERS:
        for field in register.fields:
            assert registers.bit(register.name, field.name) == 1 << field.bit
    assert registers.bit("CONTROL", "START") == 1 and registers.bit("CONTROL", "RESET") == 2
    assert [registers.bit("STATUS", n) for n in ("BUSY", "DONE", "ERROR")] == [1, 2, 4]
    assert [registers.bit("IRQ_STATUS", n) for n in ("DONE", "ERROR")] == [1, 2]
    with pytest.raises(KeyError):
        registers.offset("NOTHING")
    with pytest.raises(StopIteration):
        registers.bit("STATUS", "NOTHING")


def test_identity_and_errors() -> None:
    assert registers.MAGIC.to_bytes(4, "big") == b"MOES"
    assert set(registers.ERROR_DOCS) == set(ErrorCode)
    assert sorted(ErrorCode) == list(range(len(ErrorCode)))


def test_documents_hold_every_mask_that_the_header_defines() -> None:
    header = generate.c_header()
    for register in REGISTERS:
        for field in register.fields:
            mask = ((1 << field.width) - 1) << field.bit
            assert f"#define MOESAIC_{register.name}_{field.name} 0x{mask:08X}u\n" in header
