"""Cuts generated Verilog into blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MODULE = re.compile(r"^module\s+(\\\S+\s|\w+\b)(.*?)^endmodule\n", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(
    r"^  (\\\S+\s|\w+)\s*(?:#\(.*?\)\s*)?\\?[\w$.]+\s*\($", re.MULTILINE | re.DOTALL
)
_PORT = re.compile(r"^  (?:input|output)\b[^;]*;\n", re.MULTILINE)


def _plain(name: str) -> str:
    return name.strip().removeprefix("\\")


@dataclass(frozen=True)
class Module:
    """A Verilog module: its text, and the modules of its instances, one entry each."""

    text: str
    children: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A piece of the design.

    Attributes
    ----------
    name
        Path of the module below the top, without the instance numbers of equal ones.
    top
        Name of the module.
    verilog
        The module and what it needs; other blocks inside it are black boxes.
    boxes
        Names of these black boxes.
    members
        Names of all modules that are equal to it, its own first.
    """

    name: str
    top: str
    verilog: str
    boxes: tuple[str, ...]
    members: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many equal ones there are."""
        return max(1, len(self.members))


def read_modules(verilog: str) -> dict[str, Module]:
    """All modules by name (without the backslash of escaped names)."""
    texts = {_plain(m.group(1)): m.group(0) for m in _MODULE.finditer(verilog)}
    return {
        name: Module(text, tuple(c for c in map(_plain, _INSTANCE.findall(text)) if c in texts))
        for name, text in texts.items()
    }


def _stub(text: str) -> str:
    """The module with its ports and nothing in it."""
    header = text[: text.index(";") + 1]
    return f"(* blackbox *)\n{header}\n{''.join(_PORT.findall(text))}endmodule\n"


def cut(verilog: str, top: str, patterns: list[str]) -> list[Block]:
    """Partition the design below ``top`` at every module whose path matches a pattern.

    Modules whose paths match the same pattern must be equal: one of them is taken, with their
    number. Paths are those of Amaranth's module names: ``top.core.matrix``.

    Parameters
    ----------
    patterns
        Regular expressions for whole paths without ``top.``; the rest becomes the block ``top``.

    Raises
    ------
    ValueError
        A pattern matches nothing, or modules of different size.
    """
    modules = read_modules(verilog)
    members: dict[str, list[str]] = {}
    for pattern in patterns:
        whole = re.compile(rf"{re.escape(top)}\.(?:{pattern})(?:\$\d+)?")
        found = [name for name in modules if whole.fullmatch(name)]
        lines = {modules[name].text.count("\n") for name in found}
        if len(lines) != 1:
            raise ValueError(f"pattern {pattern!r} must match equal modules, not {found!r}")
        members[pattern] = found
    members[""] = [top]
    cuts = {name for names in members.values() for name in names}

    blocks = []
    for pattern, names in members.items():
        needed: dict[str, str] = {}

        def collect(name: str, root: str, needed: dict[str, str] = needed) -> None:
            if name in needed:
                return
            boxed = name in cuts and name != root
            needed[name] = _stub(modules[name].text) if boxed else modules[name].text
            for child in () if boxed else modules[name].children:
                collect(child, root)

        collect(names[0], names[0])
        label = re.sub(r"\\d\+|\\", "", pattern) or top
        boxes = tuple(sorted(cuts & needed.keys() - {names[0]}))
        blocks.append(Block(label, names[0], "\n".join(needed.values()), boxes, tuple(names)))
    return blocks
