"""References that the code itself gives, as Markdown, each in the place of a block of its page.

A block begins with a comment ``generated: NAME`` and ends with a comment ``end``; what stands
between is for those who read the file itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

import moesaic

_BLOCK = re.compile(r"^<!-- generated: ([\w-]+) -->\n.*?^<!-- end -->$", re.M | re.S)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _codes(words: Iterable[object]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def operators() -> str:
    """Operators of the frontend's table, with all that each of them may have."""
    from moesaic.compiler.frontend.operators import OPERATORS
    from moesaic.compiler.frontend.operators.call import ANY

    def fixed(allowed: tuple[object, ...] | None) -> str:
        return "any" if allowed is ANY else " or ".join(repr(value) for value in allowed)

    return _table(
        ("operator", "domain", "inputs", "attributes", "attributes that must have a value"),
        (
            (
                f"`{name}`",
                domain or "ONNX",
                "all" if operator.inputs is None else f"{operator.inputs} at most",
                _codes(operator.attributes),
                _codes(f"{key} = {fixed(value)}" for key, value in operator.fixed.items()),
            )
            for (domain, name), operator in sorted(OPERATORS.items())
        ),
    )


def layout_operators() -> str:
    """Operators that move elements about."""
    from moesaic.compiler.frontend.layout import DATA_INPUTS

    return _codes(DATA_INPUTS)


def command_line() -> str:
    """Every command with its arguments and options, as typer itself documents them."""
    import typer
    from typer.cli import get_docs_for_click

    from moesaic.cli.application import app

    command = typer.main.get_command(app)
    return get_docs_for_click(
        obj=command, ctx=typer.Context(command), name="moesaic", indent=1, title="All commands"
    )


def target_fields() -> str:
    """Fields of a target file, from its schema."""
    from moesaic.spec.arch_schema import arch_schema

    def values(about: dict[str, object]) -> str:
        powers = about.get("enum")
        if isinstance(powers, list):
            return f"{powers[0]:,} to {powers[-1]:,}, powers of two"
        if "maximum" in about:
            return f"{about['minimum']:,} to {about['maximum']:,}"
        return str(about["type"])

    return _table(
        ("field", "values", "default", "meaning"),
        (
            (
                f"`{name}`",
                values(about),
                f"`{json.dumps(about['default'])}`" if "default" in about else "needed",
                about["description"],
            )
            for name, about in arch_schema()["properties"].items()
        ),
    )


def target_schema() -> str:
    """What `moesaic targets --schema` prints."""
    from moesaic.spec.arch_schema import arch_schema

    return f"```json\n{json.dumps(arch_schema(), indent=2)}\n```"


def presets() -> str:
    """The presets side by side."""
    from moesaic.compiler.estimate.rating import rate
    from moesaic.spec.boards import dram_of
    from moesaic.spec.clocks import find_clock
    from moesaic.spec.presets import PRESETS

    derived = (
        ("clock", *(str(find_clock(arch)) for arch in PRESETS.values())),
        ("DRAM of its board", *(str(dram_of(arch) or "no board") for arch in PRESETS.values())),
        ("frames/s", *(str(rate(arch) or "no board") for arch in PRESETS.values())),
    )
    archs = [arch.to_dict() for arch in PRESETS.values()]
    fields = (
        (f"`{field}`", *(f"`{json.dumps(arch[field])}`" for arch in archs))
        for field in archs[0]
        if field != "name"
    )
    return _table(("field", *PRESETS), (*fields, *derived))


def public_names() -> str:
    """What `import moesaic` has, by autodoc."""
    parts = []
    for name in moesaic.__all__:
        if name == "__version__":
            continue
        value = getattr(moesaic, name)
        if isinstance(value, type):
            kind = "exception" if issubclass(value, Exception) else "class"
        else:
            kind = "function"
        parts += [f"## {name}", "", "```{eval-rst}", f".. auto{kind}:: moesaic.{name}", "```", ""]
    return "\n".join(parts)


GENERATED: dict[str, Callable[[], str]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        command_line,
        layout_operators,
        operators,
        presets,
        public_names,
        target_fields,
        target_schema,
    )
}


def fill_in(text: str) -> str:
    """A page's text with each block replaced.

    Raises
    ------
    KeyError
        Nothing generates such a name.
    """
    return _BLOCK.sub(lambda block: GENERATED[block[1]](), text)
