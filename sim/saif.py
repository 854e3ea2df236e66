"""Toggles of registers: which bits of a design are registers, and how often each changed.

Verilator writes SAIF, in which every bit of every signal has a count. Of these only registers are
taken: a flip-flop of the part is one of them, while wires of the Verilog are not yet the outputs of
its LUTs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from moesaic.hw.resources.hierarchy import read_modules

Registers = Mapping[str, Mapping[str, int]]
"""Path of a module's instance below the top (``core.matrix``, "" for the top itself) to the bits of
each of its registers."""

_DECLARED = re.compile(r"^  reg (?:\[(\d+):(\d+)\] )?(\\\S+ |\w+)(?: = [^;]*)?;$", re.MULTILINE)
_CLOCKED = re.compile(
    r"^  always @\(posedge [^)]*\)(?: begin)?\n((?:    .*\n)+)", re.MULTILINE
)  # as the writer indents
_ASSIGNED = re.compile(r"^ +(?:if \([^\n]*\)\s+)?(\\\S+ |\w+) +<= [^\n]*;$", re.MULTILINE)
_MEMORY_OUTPUT = re.compile(r"^_\d+_$")
"""What the Verilog's writer calls the registers behind memories; the part has them in those."""


def find_registers(verilog: str, top: str = "top") -> dict[str, dict[str, int]]:
    """All registers of a design but those inside of memories.

    Modules have the paths of their instances for names, as Amaranth's have.
    """
    found = {}
    for name, module in read_modules(verilog).items():
        if name != top and not name.startswith(f"{top}."):
            continue
        clocked = set()
        for body in _CLOCKED.findall(module.text):
            clocked |= {_plain(register) for register in _ASSIGNED.findall(body)}
        widths = {
            _plain(register): int(high or 0) - int(low or 0) + 1
            for high, low, register in _DECLARED.findall(module.text)
        }
        own = {
            register: widths[register]
            for register in sorted(clocked & widths.keys())
            if not _MEMORY_OUTPUT.match(register)
        }
        found[name.removeprefix(top).removeprefix(".")] = own
    return found


def read_toggles(
    path: Path, registers: Registers, block_of: Callable[[str], str], inner: str = "inner"
) -> dict[str, int]:
    """Toggles by block of all ``registers`` in a SAIF file.

    What was a bit's first value counts as a toggle if it was 1: see
    :func:`moesaic.sim.toggles.count_toggles`.

    Parameters
    ----------
    block_of
        Name of a block for the path of a module.
    inner
        Instance of the design's top in the simulated one.

    Raises
    ------
    ValueError
        A register is missing in the file.
    """
    total: dict[str, int] = {}
    seen = dict.fromkeys(registers, 0)
    stack: list[str] = []
    module, own, block = "", None, ""
    with path.open(encoding="utf-8") as file:
        for line in file:
            text = line.strip()
            if text == ")" or text.startswith(("(INSTANCE ", "(NET")):
                if text == ")":
                    del stack[-1:]
                else:  # the signals of an instance have brackets of their own
                    stack.append(text.removeprefix("(INSTANCE ") if text[1] == "I" else "")
                names = [name for name in stack if name]
                below = inner in names
                module = ".".join(names[names.index(inner) + 1 :]) if below else ""
                own, block = registers.get(module) if below else None, block_of(module)
            elif own is not None:
                name = text[1 : text.find(" ")].partition("\\[")[0]
                if name in own:
                    seen[module] += 1
                    toggles = int(text[text.rfind(" ") + 1 : -2])
                    total[block] = total.get(block, 0) + toggles
    for name, bits in ((name, sum(own.values())) for name, own in registers.items()):
        if seen[name] != bits:
            raise ValueError(
                f"{path.name} has {seen[name]} of the {bits} register bits of {name or 'the top'}"
            )
    return total


def _plain(name: str) -> str:
    return name.strip().removeprefix("\\")
