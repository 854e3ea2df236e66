"""Scratch: external memory behind a task's outputs, for rows of the stream that do not fit.

It lies in the OUTPUT window of port 0: a ``single`` STORE writes residual words there as they are,
and a LOAD of the window OUTPUT reads them. A program says by its STOREs how much it takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from moesaic.spec import isa, layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.isa import INSTRUCTION_BYTES, Opcode


def port_bytes(arch: ArchConfig, outputs: Sequence[tuple[int, int]]) -> int:
    """Bytes that outputs of codes [rows, columns] take in the window of each output port."""
    chunks = sum(layout.output_chunks(arch, rows, columns) for rows, columns in outputs)
    return chunks * 2 * arch.lanes // arch.output_ports


def first_byte(arch: ArchConfig, outputs: Sequence[tuple[int, int]]) -> int:
    """Where scratch begins behind such outputs: a place that STORE can name."""
    line = arch.output_line_bytes
    return layout.words(port_bytes(arch, outputs), line) * line


def end_of_stores(arch: ArchConfig, program: bytes) -> int:
    """The byte of port 0's window behind the last one that ``single`` STOREs write, or 0."""
    where = {name: isa.positions(Opcode.STORE)[name] for name in ("offset", "words", "single")}
    opcode_bits = isa.width(Opcode.STORE, "opcode")
    end = 0
    for start in range(0, len(program), INSTRUCTION_BYTES):
        if program[start] & (1 << opcode_bits) - 1 != Opcode.STORE:
            continue
        word = int.from_bytes(program[start : start + INSTRUCTION_BYTES], "little")
        values = {name: word >> bit & (1 << width) - 1 for name, (bit, width) in where.items()}
        if values["single"]:
            end = max(end, values["offset"] + values["words"] * 2 * arch.lanes)
    return end


def scratch_bytes(arch: ArchConfig, program: bytes, outputs: Sequence[tuple[int, int]]) -> int:
    """Bytes of port 0's window behind outputs of codes [rows, columns] that a program needs."""
    return max(0, end_of_stores(arch, program) - port_bytes(arch, outputs))
