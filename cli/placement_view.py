"""Which part of a partitioned task runs where, as a table."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text


def placement_table(task: str, report: dict[str, Any]) -> Table:
    """One line for the accelerator, and one for every node on the host with the reason.

    ``report`` is the task's in the bundle's report; its ``host`` is not None.
    """
    host = report["host"]
    table = Table(title=f"{task}: where it runs")
    for column in ("where", "node", "operator", "why"):
        table.add_column(column, overflow="fold")
    cuts = ", ".join(f"{c['tensor']!r} {'x'.join(map(str, c['shape']))}" for c in host["cuts"])
    # Text: names of nodes and tensors may hold brackets, which are no markup.
    table.add_row(
        "accelerator",
        f"{host['accelerator_nodes']} nodes",
        f"{report['layers']} layers",
        Text(f"up to {cuts}{_share(report)}"),
    )
    table.add_section()
    for node in host["nodes"]:
        table.add_row("host", *(Text(node[key]) for key in ("name", "operator", "reason")))
    return table


def _share(report: dict[str, Any]) -> str:
    macs = report["host"]["macs"]
    if macs is None:
        return f", {report['macs'] / 1e6:.1f} M MAC"
    total = report["macs"] + macs
    return f", {report['macs'] / 1e6:.1f} of {total / 1e6:.1f} M MAC ({report['macs'] / total:.0%})"
