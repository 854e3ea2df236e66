"""Try every architecture of the zoo: ``python -m moesaic.models.zoo``; ``make zoo``.

A trial takes half a minute to several minutes. Rows that ``build/zoo/rows.json`` has of the same
sources and libraries are not tried again (``--again`` tries those named by ``--only``, or all;
``--keep`` tries none that has a row). Ends with 1 if a row is wrong or crashes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from moesaic.models.zoo.catalogue import catalogue
from moesaic.models.zoo.entry import Entry
from moesaic.models.zoo.keys import row_key
from moesaic.models.zoo.page import counts, page
from moesaic.models.zoo.trial import Row, run_trial

_WRONG = ("wrong", "crash")


def read_rows(path: Path) -> dict[str, Row]:
    """Rows of a file, by name; none if there is no file."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    known = {part.name for part in fields(Row)}  # rows of other columns are tried again
    return {row["name"]: Row(**row) for row in found if row.keys() <= known}


def write_rows(path: Path, rows: dict[str, Row]) -> None:
    """Write them beside the file, and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    text = json.dumps([row.to_dict() for row in rows.values()], indent=1) + "\n"
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.models.zoo", description=__doc__)
    parser.add_argument("--only", default=".", metavar="REGEX", help="names that contain it")
    parser.add_argument("--again", action="store_true", help="also what has a row")
    parser.add_argument("--keep", action="store_true", help="rows of other sources stay")
    parser.add_argument("--rtl", action="store_true", help="small twins on the RTL, too")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page there, too")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/zoo"))
    options = parser.parse_args(arguments)
    console = Console(width=max(Console().width, 140))
    entries, path = catalogue(), options.output / "rows.json"
    rows = {name: row for name, row in read_rows(path).items() if name in entries}

    def has_row(entry: Entry) -> bool:
        row = rows.get(entry.name)
        keys = (row_key(entry, True), row_key(entry, options.rtl))
        return row is not None and (options.keep or row.key in keys)

    wanted = [
        entry
        for name, entry in entries.items()
        if re.search(options.only, name) and (options.again or not has_row(entry))
    ]
    lacking = {entry.source for entry in wanted} - {"here"}
    if missing := sorted(source for source in lacking if find_spec(source) is None):
        print(f"error: {missing[0]} must be installed: `make zoo` does so", file=sys.stderr)
        return 2
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        trials = pool.map(partial(run_trial, rtl=options.rtl), wanted)
        for number, row in enumerate(trials, 1):
            rows[row.name] = row
            write_rows(path, {name: rows[name] for name in entries if name in rows})
            console.print(
                f"{number}/{len(wanted)} {row.name}: {row.state}, {row.seconds:.0f} s"
                + (f"; {row.why}" if row.why else ""),
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip
    found = list(rows.values())
    for place in (options.output / "zoo.md", options.page):
        if place is not None:
            place.write_text(page(found), encoding="utf-8")
    console.print(counts(found))
    return 1 if any(row.state in _WRONG for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
