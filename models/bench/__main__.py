"""Measure everything: ``python -m moesaic.models.bench``, two hours on two cores.

Writes ``build/bench/bench.json``, a list of rows with the resources of their target, and
``build/bench/report.json`` with the rest. Exits with 1 if a goal is not met.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from rich.console import Console

from moesaic.models.bench import plans, tables, together
from moesaic.models.bench.cases import (
    ATTENTION,
    BOARD,
    FAMILIES,
    HEADLINES,
    MEMORIES,
    ROUTINGS,
    SMALL,
    Case,
)
from moesaic.models.bench.goals import judge
from moesaic.models.bench.measure import Bench, Row


def _write(path: Path, value: object) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def _sensitivity(headlines: list[Row], case: Case, rows: list[Row]) -> list[Row]:
    """The headline's row of the same target and task first."""
    same = [r for r in headlines if r["target"] == case.target and r["task"] == case.task]
    return same + rows


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.models.bench", description=__doc__)
    parser.add_argument("--targets", default=",".join(FAMILIES), help="only these")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args(arguments)
    wanted = options.targets.split(",")
    # Piped into a file, the tables are as wide as they are on a wide terminal.
    console, started = Console(width=max(Console().width, 140)), time.monotonic()
    bench = Bench(console, options.out)

    def measure(cases: tuple[Case, ...]) -> list[Row]:
        return [row for case in cases if case.target in wanted for row in bench.run(case)]

    headlines, small = measure(HEADLINES), measure(SMALL)
    routings, memories, board = measure(ROUTINGS), measure(MEMORIES), measure((BOARD,))
    paper = [row for row in headlines if row["model"].startswith("M3ViT-T")]
    narrow = bench.run(ATTENTION) if paper else []
    planned = [
        row for plan in plans.PLANS if plan.target in wanted for row in plans.run_plan(bench, plan)
    ]
    joined = [
        row
        for form in together.FORMS
        if form.target in wanted
        for row in together.run_form(bench, form)
    ]
    reports = {target: bench.resources(target, FAMILIES[target]) for target in wanted}
    others = [*small, *routings, *memories, *board, *narrow]
    rows = [*headlines, *others]
    judged = [
        *judge(headlines, others, reports),
        *plans.judge_plans(planned),
        *together.judge_forms(joined),
    ]

    console.print(tables.frames([*headlines, *small, *routings]))
    console.print(tables.kinds([*headlines, *small, *routings]))
    console.print(tables.array_use(paper or headlines))
    if memories:
        other = [row for row in board if row["task"] == MEMORIES[0].task]
        console.print(tables.memories(_sensitivity(headlines, MEMORIES[0], [*memories, *other])))
    if paper:
        depth = [row for row in paper if row["task"] == ATTENTION.task]
        console.print(tables.attention([*narrow, *depth]))
    if planned:
        console.print(plans.make_table(planned))
    if joined:
        console.print(together.make_table(joined))
    console.print(tables.resources(reports))
    if paper:
        console.print(tables.comparison([*paper, *board], reports))
    console.print(tables.goals(judged))
    _write(
        options.out / "bench.json",
        [{**row, "resources": reports.get(row["target"], {}).get("totals")} for row in rows],
    )
    report = {"goals": [dataclasses.asdict(goal) for goal in judged], "resources": reports}
    report |= {"plans": planned, "together": joined}
    _write(options.out / "report.json", report)
    console.print(
        f"wrote {options.out}/bench.json and report.json after {time.monotonic() - started:.0f} s"
    )
    return 0 if all(goal.met for goal in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
