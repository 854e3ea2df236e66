"""What ``moesaic estimate`` reads and shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from moesaic.spec.errors import UserError


def read_routing(path: Path) -> dict[str, list[int]]:
    """Layer names to the token counts of the experts.

    Raises
    ------
    UserError
        The file cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"routing file {path} cannot be read as JSON: {error}") from error
    good = isinstance(value, dict) and all(
        isinstance(rows, list) and all(type(count) is int for count in rows)
        for rows in value.values()
    )
    if not good:
        raise UserError(f"routing file {path} must map layer names to lists of token counts")
    return dict(value)


def estimate_tables(target: str, tasks: dict[str, dict[str, Any]]) -> Iterator[Table]:
    """A table by kind of layer for every task; ``tasks`` as ``Estimate.to_dict`` gives them."""
    for task, figures in tasks.items():
        total = figures["cycles"]
        table = Table(
            title=f"{task} on {target}: {total} cycles, roofline {figures['roofline_cycles']:.0f},"
            f" utilisation {figures['utilisation']:.2f}"
        )
        for column in ("layers", "number", "cycles", "share", "array busy", "weight KB"):
            table.add_column(column, justify="left" if column == "layers" else "right")
        for kind, cycles in figures["kinds"].items():
            layers = [layer for layer in figures["layers"] if layer["kind"] == kind]
            table.add_row(
                kind,
                str(len(layers)),
                str(cycles),
                f"{cycles / total:.1%}",
                f"{sum(layer['matrix_busy'] for layer in layers) / max(cycles, 1):.1%}",
                f"{sum(layer['weight_bytes'] for layer in layers) / 1e3:.0f}",
            )
        table.add_section()
        table.add_row(
            "frame",
            str(len(figures["layers"])),
            str(total),
            "100.0%",
            f"{figures['busy']['matrix'] / total:.1%}",
            f"{figures['weight_bytes'] / 1e3:.0f}",
        )
        table.caption = "busy: " + ", ".join(
            f"{unit} {cycles / total:.0%}" for unit, cycles in figures["busy"].items()
        )
        yield table
