"""What the cost model says of programs that take minutes to simulate, and what it is held to."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rich.table import Table

from moesaic.models.bench.cases import TINY, Model
from moesaic.models.bench.goals import Goal, at_most
from moesaic.models.bench.measure import Bench, Row
from moesaic.models.commands import moesaic, run_step


@dataclass(frozen=True)
class Plan:
    """One estimate for each share of DRAM's peak, with schedules for it.

    Attributes
    ----------
    what
        In tables: what ``cycles`` are of.
    model, target
        What is estimated, and on what; experts share the tokens equally.
    task
        Estimated from its ONNX file; of several, together, from the bundle of all.
    options
        Of ``moesaic estimate``; of several tasks, of the ``compile`` of their bundle.
    most_cycles
        Share of the peak to the most cycles, of a frame of all of a program's.
    """

    what: str
    target: str
    task: str
    most_cycles: dict[float, int]
    options: tuple[str, ...] = ()
    model: Model = TINY


PLANS = (
    Plan("both tasks of an image", "zcu102", "seg,depth", {0.9: 510_000, 0.7: 560_000}),
    Plan("both tasks, experts in 4 bits", "zcu102", "seg,depth", {0.9: 450_000, 0.7: 455_000},
         ("--experts", "4")),
    Plan("seg, of two frames", "zcu102", "seg", {0.9: 255_000, 0.7: 280_000}, ("--frames", "2")),
    Plan("seg, experts in 4 bits", "zcu102", "seg", {0.9: 258_000, 0.7: 300_000},
         ("--experts", "4")),
    Plan("seg", "zcu104", "seg", {0.9: 515_000}),
    Plan("depth", "zcu104", "depth", {0.9: 495_000}),
)  # fmt: skip


def run_plan(bench: Bench, plan: Plan) -> list[Row]:
    """A row for each share of the peak."""
    folder = bench.export(plan.model)
    source, options = folder / f"{plan.task}.onnx", plan.options
    if "," in plan.task:
        source = bench.compile(plan.model, plan.target, options)
        options = ("--together", plan.task)
    rows = []
    for share, most in plan.most_cycles.items():
        command = moesaic("estimate", source, "--target", plan.target, "--routing", "equal")
        command += [*options, "--bandwidth", str(share), "--json"]
        title = f"estimate {plan.what} on {plan.target}, bandwidth {share}"
        (found,) = json.loads(run_step(bench.console, title, command))["tasks"].values()
        row: Row = {"what": plan.what, "target": plan.target, "model": plan.model.label}
        row |= {"bandwidth": share, "cycles": found["frame_cycles"], "most_cycles": most}
        rows.append(row)
    return rows


def judge_plans(rows: list[Row]) -> list[Goal]:
    """Every estimate against its limit."""
    return [
        at_most(
            f"{row['target']} {row['what']}: estimated cycles, DRAM at {row['bandwidth']}",
            row["cycles"],
            row["most_cycles"],
        )
        for row in rows
    ]


def make_table(rows: list[Row]) -> Table:
    """Cycles by target and share."""
    table = Table("target", "cycles of a frame of", "model", title="together, and in four bits")
    table.caption = "by the cost model; experts share the tokens equally"
    for column in ("DRAM's peak", "cycles", "limit"):
        table.add_column(column, justify="right")
    for row in rows:
        cycles, most = f"{row['cycles']:,.0f}", f"{row['most_cycles']:,}"
        share = f"{row['bandwidth']:.0%}"
        table.add_row(row["target"], row["what"], row["model"], share, cycles, most)
    return table
