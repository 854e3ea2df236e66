"""`moesaic serve` under load: ``python -m moesaic.models.bench.serving``, minutes.

One, two and eight clients, requests one by one and joined, each task alone and both of one image,
on the device `cpu` of this machine. Writes ``serving.json`` and prints the table. Exits with 1 if a
goal is not met.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moesaic.models.bench import tables
from moesaic.models.bench.goals import Goal, at_least
from moesaic.models.bench.measure import Bench, Row
from moesaic.models.bench.processor import MODELS
from moesaic.models.commands import module, run_step

CLIENTS, BATCHES = (1, 2, 8), (1, 8)
LEAST_GAIN = {"nano": 1.1, "tiny": 1.0}
"""Images a second of the most clients, joined, over one by one."""


def measure(bench: Bench, size: str, seconds: float) -> list[Row]:
    """A row for each load of a size of :data:`MODELS`."""
    command = module("host.serving.benchmark", bench.compile(*MODELS[size]), "--json")
    command += ["--clients", ",".join(map(str, CLIENTS)), "--batch", ",".join(map(str, BATCHES))]
    command += ["--seconds", str(seconds)]
    found = json.loads(run_step(bench.console, f"serve {size}", command))
    return [{"size": size, **row} for row in found]


def judge(rows: list[Row]) -> list[Goal]:
    """What joining gains where there are many clients."""
    goals, rates = [], {}
    for row in rows:
        asked = row["size"], ", then ".join(row["models"]), row["clients"]
        rates[*asked, row["batch"]] = row["images_per_second"]
    for size, models, clients, batch in rates:
        if clients == max(CLIENTS) and batch == max(BATCHES):
            gain = rates[size, models, clients, batch] / rates[size, models, clients, min(BATCHES)]
            what = f"{size}, {clients} clients of {models}: images a second, joined over one by one"
            goals.append(at_least(what, gain, LEAST_GAIN[size]))
    return goals


def make_table(rows: list[Row]) -> Table:
    """One row per load."""
    table = Table("model", "an image", title="images a second of a server on the device cpu")
    for column in ("clients", "joined", "images/s", "p50 ms", "p99 ms", "frames a call"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["size"],
            ", then ".join(row["models"]),
            str(row["clients"]),
            f"up to {row['batch']}" if row["batch"] > 1 else "no",
            f"{row['images_per_second']:.1f}",
            f"{1000 * row['p50']:.1f}",
            f"{1000 * row['p99']:.1f}",
            f"{row['frames_per_call']:.2f}",
        )
    return table


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m moesaic.models.bench.serving", description=__doc__
    )
    parser.add_argument("--models", default=",".join(MODELS), help="only these sizes")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load and round")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args(arguments)
    sizes = options.models.split(",")
    if unknown := sorted(set(sizes) - set(MODELS)):
        raise SystemExit(f"--models must be among {', '.join(MODELS)}, not {', '.join(unknown)}")
    console = Console(width=max(Console().width, 120))
    bench = Bench(console, options.out)
    rows = [row for size in sizes for row in measure(bench, size, options.seconds)]
    judged = judge(rows)
    console.print(make_table(rows))
    console.print(tables.goals(judged))
    (options.out / "serving.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(goal.met for goal in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
