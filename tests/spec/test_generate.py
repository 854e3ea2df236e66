"""Generated documents and header: current, complete, and `--check` notices a stale one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from moesaic.spec import generate, isa, registers
from moesaic.spec.presets import PRESETS


def test_checked_in_files_are_current() -> None:
    assert generate.stale_files() == []


@pytest.mark.parametrize("name", generate.OUTPUTS)
def test_check_names_the_stale_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    generate.write_files(tmp_path)
    assert generate.stale_files(tmp_path) == []
    path = tmp_path / name
    text = path.read_text()
    path.write_text(text.replace("0", "1", 1))
    assert generate.stale_files(tmp_path) == [name]
    path.unlink()
    assert generate.stale_files(tmp_path) == [name]
    monkeypatch.setattr(generate.stale_files, "__defaults__", (tmp_path,))
    assert generate.main(["--check"]) == 1
    assert name in capsys.readouterr().err
    assert not path.exists()


def test_documents_name_every_field_register_and_counter() -> None:
    text = generate.isa_document()
    for opcode in isa.Opcode:
        for name, (start, width) in isa.positions(opcode).items():
            bits = str(start) if width == 1 else f"{start + width - 1}..{start}"
            assert f"| {bits} | `{name}` |" in text
    text = generate.registers_document()
    for register in registers.REGISTERS:
        assert f"| 0x{register.offset:03X} | {register.name} |" in text
    for code in registers.ErrorCode:
        assert f"| {code.value} | {code.name} |" in text


def test_header_compiles_as_c99_and_agrees(tmp_path: Path) -> None:
    """The compiler itself evaluates every macro against the specification."""
    checks = {f"MOESAIC_ARCH_{n.upper().replace('-', '_')}": a.hash for n, a in PRESETS.items()}
    checks |= {f"MOESAIC_ERROR_{code.name}": code.value for code in registers.ErrorCode}
    checks |= {"MOESAIC_MAGIC": registers.MAGIC}
    checks |= {"MOESAIC_INSTRUCTION_BYTES": isa.INSTRUCTION_BYTES}
    checks |= {"MOESAIC_STATUS_ERROR": registers.bit("STATUS", "ERROR")}
    for index, (name, _) in enumerate(registers.COUNTERS):
        where = f"MOESAIC_COUNTER_BASE + MOESAIC_COUNTER_STRIDE * MOESAIC_COUNTER_{name}"
        checks[where] = registers.offset(f"{name}_LO")
        assert index * registers.COUNTER_STRIDE + registers.COUNTER_BASE == checks[where]
    counters = {f"{name}_{half}" for name, _ in registers.COUNTERS for half in ("LO", "HI")}
    for register in registers.REGISTERS:
        if register.name not in counters:
            checks[f"MOESAIC_{register.name}"] = register.offset
    lines = ['#include "moesaic_registers.h"']
    lines += [
        f"typedef char check{i}[({macro}) == 0x{value:X}u ? 1 : -1];"
        for i, (macro, value) in enumerate(checks.items())
    ]
    source = tmp_path / "check.c"
    source.write_text("\n".join([*lines, "int main(void) { return 0; }", ""]))
    (tmp_path / "moesaic_registers.h").write_text(generate.c_header())
    compiler = shutil.which("gcc") or shutil.which("g++")
    assert compiler, "a C compiler is part of the set-up"
    command = [compiler, "-x", "c", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run([*command, "-fsyntax-only", source], check=True, cwd=tmp_path)


def test_instruction_with_undefined_value_is_refused() -> None:
    from moesaic.spec.errors import UserError

    good = isa.encode(isa.Opcode.DRAIN, rows=3, n_tiles=1, groups=1, columns=4)
    assert isa.decode(good).values["rows"] == 3
    for bad in (
        {"kind": 7, "rows": 1, "n_tiles": 1, "groups": 1, "columns": 1},
        {"kind": 0, "rows": 1, "n_tiles": 1, "groups": 1, "columns": 1, "predicated": 1},
    ):
        raw = isa.encode(isa.Opcode.DRAIN, **bad)
        if bad["kind"] == 7:
            with pytest.raises(UserError, match="kind is undefined"):
                isa.decode(raw)
        else:
            assert isa.decode(raw).values["kind"] == 0
    with pytest.raises(AssertionError, match="rows must not be 0"):
        isa.encode(isa.Opcode.DRAIN, n_tiles=1, groups=1, columns=4)
