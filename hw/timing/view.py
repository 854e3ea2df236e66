"""A timing report for people: tables, paths as lines, and a picture."""

from __future__ import annotations

import io
from typing import Any

from rich.table import Table


def outline(path: dict[str, Any]) -> str:
    """A path by the gateware's names, in order; an end without one has the name of its block."""
    names: list[str] = []
    for step in path["steps"]:
        name = step["name"]
        if name and (not names or names[-1] != name):
            names.append(name)
    end = path["end_name"]
    if not end:
        end = f"{path['end'].replace('_', ' ')} in {path['end_block'] or 'top'}"
    return " -> ".join([*names, *([end] if not names or names[-1] != end else [])])


def tables(result: dict[str, Any], most: int = 12) -> list[Table]:
    """Blocks alone, from block to block, and the longest paths."""
    numbers = ("ns", "LUTs", "carries", "ends")
    alone = _table("each block between its own registers", ("block",), (*numbers, "too late"))
    for row in sorted(result["blocks"], key=lambda row: -row["ns"]):
        if row["path"]:
            alone.add_row(row["block"], *_cells(row), f"{row['over']:,}")
    across = _table("from block to block", ("from", "to"), numbers)
    for row in result["across"][:most]:
        across.add_row(row["from"], row["to"], *_cells(row))
    return [alone, across]


def _table(title: str, names: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for name in names:
        table.add_column(name)
    for number in numbers:
        table.add_column(number, justify="right")
    return table


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    path = row["path"]
    return f"{row['ns']:.2f}", str(path["levels"]), str(path["carries"]), f"{row['ends']:,}"


def listing(result: dict[str, Any], most: int = 8) -> list[str]:
    """The longest paths, a line each."""
    return [
        f"{path['ns']:.2f} ns, {path['levels']} LUTs, {path['carries']} carries: {outline(path)}"
        for path in result["paths"][:most]
    ]


def draw(result: dict[str, Any]) -> bytes:
    """A .png: how many ends have how much slack, and the longest path of each block."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    edges = result["slack"]["edges"]
    colours = ["tab:red" if edge < 0 else "tab:blue" for edge in edges[:-1]]
    left.bar(edges[:-1], result["slack"]["ends"], edges[1] - edges[0], align="edge", color=colours)
    left.set(
        title=f"{result['target']}: slack to {result['budget_ns']:.2f} ns",
        xlabel="slack, ns",
        ylabel="ends of paths",
        yscale="log",
    )
    rows = sorted((row for row in result["blocks"] if row["path"]), key=lambda row: row["ns"])
    right.barh([row["block"] for row in rows], [row["ns"] for row in rows], color="tab:blue")
    right.axvline(result["budget_ns"], color="tab:red")
    right.set(title="longest path inside of each block", xlabel="ns")
    image = io.BytesIO()
    figure.savefig(image, format="png")
    pyplot.close(figure)
    return image.getvalue()
