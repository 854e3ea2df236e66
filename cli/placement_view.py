"""Which part of a partitioned task runs where, as a table."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text


def placement_table(task: str, report: dict[str, Any]) -> Table:
    """One line for the accelerator, and one for every node on the host with the reason.

    ``report`` is the task's in the bundle's report; ``host`` or ``front`` is not None.
    """
    front, host = report["front"], report["host"]
    table = Table(title=f"{task}: where it runs")
    for column in ("where", "node", "operator", "why"):
        table.add_column(column, overflow="fold")
    # Text: names of nodes and tensors may hold brackets, which are no markup.
    if front:
        table.caption = Text(f"in front on the host because of: {front['why']}")
        _add_nodes(table, front)
    ends = [f"from {_tensors([front['cut']])}"] if front else []
    ends += [f"up to {_tensors(host['cuts'])}"] if host else []
    table.add_row(
        "accelerator",
        f"{(front or host)['accelerator_nodes']} nodes",
        f"{report['layers']} layers",
        Text(f"{' '.join(ends)}{_share(report)}"),
    )
    if host:
        table.add_section()
        _add_nodes(table, host)
    return table


def _add_nodes(table: Table, part: dict[str, Any]) -> None:
    for node in part["nodes"]:
        table.add_row("host", *(Text(node[key]) for key in ("name", "operator", "reason")))
    table.add_section()


def _tensors(cuts: list[dict[str, Any]]) -> str:
    return ", ".join(f"{cut['tensor']!r} {'x'.join(map(str, cut['shape']))}" for cut in cuts)


def _share(report: dict[str, Any]) -> str:
    macs = [part["macs"] for part in (report["front"], report["host"]) if part]
    if None in macs:
        return f", {report['macs'] / 1e6:.1f} M MAC"
    total = report["macs"] + sum(macs)
    return f", {report['macs'] / 1e6:.1f} of {total / 1e6:.1f} M MAC ({report['macs'] / total:.0%})"
