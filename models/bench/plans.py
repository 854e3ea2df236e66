"""Frames together by the cost model, and what they are held to."""

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
    frames
        In one program.
    most_cycles
        Share of the peak to the most cycles of one of the frames.
    target
        What they run on, and ``changes`` the fields in which it is another one.
    model, task
        What is estimated from its ONNX file; experts share the tokens equally.
    """

    frames: int
    most_cycles: dict[float, int]
    target: str = "zcu102"
    changes: tuple[tuple[str, int], ...] = ()
    model: Model = TINY
    task: str = "seg"

    @property
    def what(self) -> str:
        """For tables."""
        memories = " with memories for four frames" if self.changes else ""
        return f"{self.task}, {self.frames} together{memories}"


FOUR = (
    ("max_tokens", 1024),
    ("accumulator_rows", 1024),
    ("activation_bytes", 512 << 10),
    ("residual_bytes", 256 << 10),
    ("ring_bytes", 1 << 20),
)
"""Memories for four frames, still inside the XCZU9EG."""
PLANS = (
    Plan(2, {0.9: 255_000, 0.7: 280_000}),
    Plan(1, {0.9: 360_000, 0.7: 440_000}, changes=FOUR),
    Plan(2, {0.9: 265_000, 0.7: 290_000}, changes=FOUR),
    Plan(4, {0.9: 247_000, 0.7: 255_000}, changes=FOUR),
)


def _target(bench: Bench, plan: Plan) -> str:
    """What ``--target`` takes."""
    if not plan.changes:
        return plan.target
    found = json.loads(
        run_step(bench.console, f"show {plan.target}", moesaic("targets", "--show", plan.target))
    )
    path = bench.folder / f"{plan.target}-changed.json"
    path.write_text(json.dumps({**found, **dict(plan.changes), "name": path.stem}))
    return str(path)


def run_plan(bench: Bench, plan: Plan) -> list[Row]:
    """A row for each share of the peak."""
    source = bench.export(plan.model) / f"{plan.task}.onnx"
    target, rows = _target(bench, plan), []
    for share, most in plan.most_cycles.items():
        command = moesaic("estimate", source, "--target", target, "--routing", "equal")
        command += ["--frames", str(plan.frames), "--bandwidth", str(share), "--json"]
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
    table = Table("target", "cycles of a frame of", "model", title="frames together")
    table.caption = "by the cost model; experts share the tokens equally"
    for column in ("DRAM's peak", "cycles", "limit"):
        table.add_column(column, justify="right")
    for row in rows:
        cycles, most = f"{row['cycles']:,.0f}", f"{row['most_cycles']:,}"
        share = f"{row['bandwidth']:.0%}"
        table.add_row(row["target"], row["what"], row["model"], share, cycles, most)
    return table
