"""Prove the gateware's most costly parts: ``python -m tests.formal``, or ``make formal``.

Prints a line for each run of the model checker and a table of all results, and writes them to
``build/formal/results.json``, with the trace of each counterexample that should not be there.
Ends with 1 if a property fails, a proof is not found, a cover is not reached, or a control passes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moesaic.hw.resources.report import write_report
from moesaic.spec.errors import UserError
from tests.formal.catalogue import PROOFS
from tests.formal.engine import EngineError
from tests.formal.run import Result, rows, run, tasks


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.formal", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="a proof; may be repeated")
    parser.add_argument("--quick", action="store_true", help="what make test runs, too")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/formal"))
    options = parser.parse_args(arguments)
    notes, console = Console(stderr=True), Console()
    began = time.monotonic()
    try:
        names = options.only or list(PROOFS)
        for name in names:
            if name not in PROOFS:
                raise UserError(f"--only knows no proof {name!r}: take one of {', '.join(PROOFS)}")
        chosen = [PROOFS[name] for name in names if PROOFS[name].quick or not options.quick]
        if not chosen:
            raise UserError("--quick leaves none of the proofs of --only: leave one of them out")
        work = [task for proof in chosen for task in tasks(proof)]

        def progress(result: Result) -> None:
            verdict, task = result.verdict, result.task
            what = (
                task.subjects[0] if len(task.subjects) == 1 else f"{len(task.subjects)} properties"
            )
            line = f"  {task.proof}, {task.kind}: {what}: {result.word}, {verdict.seconds:.1f} s"
            notes.print(line, soft_wrap=True, highlight=False, markup=False)

        # Proofs take longest: they begin first. The table has the order of the catalogue.
        order = sorted(work, key=lambda task: task.kind not in ("proof", "bounded"))
        found = {id(result.task): result for result in run(order, progress)}
        results = [found[id(task)] for task in work]
        _write(results, options.output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = Table("proof", "property", "kind", "depth", "seconds", "")
    for row in rows(results):
        table.add_row(*row)
    console.print(table)
    counts = {
        kind: sum(len(r.task.subjects) for r in results if r.good and r.task.kind == kind)
        for kind in ("proof", "bounded", "cover", "control")
    }
    print(
        f"{counts['proof']} properties proven, {counts['bounded']} bounded,"
        f" {counts['cover']} covers reached, {counts['control']} controls failed as they must,"
        f" in {time.monotonic() - began:.0f} s"
    )
    bad = [result for result in results if not result.good]
    for result in bad:
        task = result.task
        name = result.failing or task.subjects[0]
        where = f": see {_trace_path(result, options.output)}" if result.trace else ""
        print(f"error: {task.proof}, {task.kind}, {name}: {result.word}{where}", file=sys.stderr)
    return 1 if bad else 0


def _trace_path(result: Result, folder: Path) -> Path:
    return folder / f"{result.task.proof}.vcd"


def _write(results: list[Result], folder: Path) -> None:
    fields = ("proof", "property", "kind", "depth", "seconds", "outcome")
    lines = [dict(zip(fields, row, strict=True)) for row in rows(results)]
    write_report(folder / "results.json", (json.dumps(lines, indent=1) + "\n").encode())
    for result in results:
        if result.trace:
            write_report(_trace_path(result, folder), result.trace.encode())


if __name__ == "__main__":
    sys.exit(main())
