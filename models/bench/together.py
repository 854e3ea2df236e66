"""Tasks together and experts in four bits on the RTL, and what their cycles are held to.

A bundle for each share of DRAM's peak, whose schedules are chosen for it; every program of it runs
once, and both tasks together twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from rich.table import Table

from moesaic.models.bench.cases import TINY, Model
from moesaic.models.bench.goals import Goal, at_most
from moesaic.models.bench.measure import Bench, Row
from moesaic.models.commands import moesaic, run_step

TASKS = ("seg", "depth")
BOTH = "+".join(TASKS)
"""The program that computes all of them."""


@dataclass(frozen=True)
class Form:
    """One form of the weights.

    Attributes
    ----------
    weights
        In tables.
    options
        Of ``moesaic compile``.
    most_cycles
        Program to the share of DRAM's peak to the most cycles of a frame.
    """

    weights: str
    options: tuple[str, ...]
    most_cycles: dict[str, dict[float, int]]
    target: str = "zcu102"
    model: Model = TINY

    @property
    def shares(self) -> list[float]:
        """Of DRAM's peak, the largest first."""
        return sorted({share for most in self.most_cycles.values() for share in most}, reverse=True)


FORMS = (
    Form("8 bits", (), {BOTH: {0.9: 510_000, 0.7: 560_000}}),
    Form(
        "experts in 4 bits",
        ("--experts", "4"),
        {
            BOTH: {0.9: 450_000, 0.7: 455_000},
            "seg": {0.9: 258_000, 0.7: 300_000},
            "depth": {0.9: 258_000, 0.7: 300_000},
        },
    ),
)


def run_form(bench: Bench, form: Form) -> list[Row]:
    """A row for each program and share of the peak."""
    rows = []
    for share in form.shares:
        memory = ("--bandwidth", str(share))
        bundle = bench.compile(
            form.model, form.target, (*form.options, "--together", ",".join(TASKS), *memory)
        )
        command = moesaic("verify", bundle, "--samples", "1", *memory, "--json")
        title = f"simulate {form.weights} on {form.target}, alone and together, bandwidth {share}"
        found = json.loads(run_step(bench.console, title, command, allowed=(1,)))["tasks"]
        for program, verdict in found.items():
            row: Row = {"target": form.target, "model": form.model.label, "weights": form.weights}
            row |= {"program": program, "bandwidth": share, "bit_exact": verdict["bit_exact"]}
            row["cycles"] = max(verdict["cycles"])
            row["most_cycles"] = form.most_cycles.get(program, {}).get(share)
            rows.append(row)
        if missing := form.most_cycles.keys() - found.keys():
            raise SystemExit(f"{title}: no program {', '.join(sorted(missing))} in {bundle}")
    return rows


def judge_forms(rows: list[Row]) -> list[Goal]:
    """Every run against its limit, and all of them bit-exact."""
    if not rows:
        return []
    wrong = sum(not row["bit_exact"] for row in rows)
    what = f"runs alone and together that are not bit-exact, of {len(rows)}"
    return [
        at_most(what, wrong, 0),
        *(
            at_most(
                f"{row['target']} {row['program']}, {row['weights']}: cycles, DRAM at"
                f" {row['bandwidth']}",
                row["cycles"],
                row["most_cycles"],
            )
            for row in rows
            if row["most_cycles"] is not None
        ),
    ]


def make_table(rows: list[Row]) -> Table:
    """Cycles by program and share."""
    table = Table("target", "model", "weights", "program", title="tasks together, on the RTL")
    for column in ("DRAM's peak", "cycles", "limit", "bit-exact"):
        table.add_column(column, justify="right")
    for row in rows:
        most = row["most_cycles"]
        table.add_row(
            *(row[column] for column in ("target", "model", "weights", "program")),
            f"{row['bandwidth']:.0%}",
            f"{row['cycles']:,}",
            f"{most:,}" if most is not None else "-",
            "yes" if row["bit_exact"] else "NO",
        )
    return table
