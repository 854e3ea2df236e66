"""Clocks and times in README and the documents are those of today's records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from moesaic.spec.clocks import find_clock
from moesaic.spec.memory import DEFAULT_MEMORY, sustained_bytes
from moesaic.spec.presets import PRESETS
from tests.documents import DOCUMENTS, ROOT

NOTEBOOK = ROOT / "examples" / "first_model.ipynb"

_BLOCK_ROW = re.compile(r" *([a-z][\w-]+) +\w+ +([\d,]+) +(\d+)\*? +([\d.]+) ")
"""Of `estimate --targets`: target, task, cycles, MHz, ms."""
_SAYS_MHZ = re.compile(r"(\d+)(?: MHz)?(?: are assumed)? for `([\w-]+)`")
_SAYS_RATE = re.compile(r"([\d.]+) GB/s \(`([\w-]+)`\)")


def rows(text: str) -> Iterator[tuple[str, float, float | None, str]]:
    """Target, MHz, cycles where there are some, and ms of each row in a table that has MHz."""
    header: list[str] = []
    target = ""
    for line in text.splitlines():
        if found := _BLOCK_ROW.match(line):
            name, cycles, mhz, ms = found.groups()
            if name in PRESETS:
                yield name, float(mhz), float(cycles.replace(",", "")), ms
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header, target = [], ""
        elif not header:
            header = cells
        elif "MHz" in header and "ms" in header:
            named = re.search(r"`([\w-]+)`", cells[0])
            target = named[1] if named else "" if cells[0] else target
            if target in PRESETS:
                row = dict(zip(header, cells, strict=True))
                count = row.get("cycles a frame")
                cycles_there = float(count.replace(",", "")) if count else None
                yield target, float(row["MHz"]), cycles_there, row["ms"]


def wrong(text: str) -> list[str]:
    """What a document says otherwise than the records."""
    found = []
    for name, mhz, cycles, ms in rows(text):
        clock = find_clock(PRESETS[name])
        if mhz != clock.mhz:
            found.append(f"{name}: {mhz:g} MHz, and it is {clock.mhz:g}")
        step = 10.0 ** -len(ms.partition(".")[2])
        if cycles and abs(cycles / mhz / 1e3 - float(ms)) > 0.5001 * step:
            found.append(f"{name}: {ms} ms, and it is {cycles / mhz / 1e3:.3f}")
    for said, name in _SAYS_MHZ.findall(text):
        if name in PRESETS and float(said) != find_clock(PRESETS[name]).mhz:
            found.append(f"{name}: {said} MHz, and it is {find_clock(PRESETS[name]).mhz:g}")
    for said, name in _SAYS_RATE.findall(text):
        size = sustained_bytes(PRESETS[name], DEFAULT_MEMORY.bandwidth_share)
        if said != f"{find_clock(PRESETS[name]).gigabytes_per_second(size):.1f}":
            found.append(f"{name}: {said} GB/s at another clock")
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_clocks_and_times_are_those_of_the_records(path: Path) -> None:
    assert wrong(path.read_text()) == []


def test_clocks_of_the_notebook_are_those_of_the_records() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    text = "".join("".join(out.get("text", [])) for c in cells for out in c.get("outputs", []))
    assert [row[0] for row in rows(text)] == list(PRESETS) and wrong(text) == []
    assert f"ms at {find_clock(PRESETS['nano'])}" in text


def test_they_are_found() -> None:
    texts = {path.name: path.read_text() for path in DOCUMENTS}
    assert [row[0] for row in rows(texts["README.md"])] == [
        "zcu102-lite", "zcu102-lite", "zcu104", "zcu104", "zcu102", "zcu102",
        "zcu102-lite", "zcu104", "zcu102", "zcu102",
    ]  # fmt: skip
    assert [row[0] for row in rows(texts["tutorial.md"])] == list(PRESETS)
    said = {name for _, name in _SAYS_MHZ.findall(texts["README.md"])}
    assert said >= set(PRESETS) and len(_SAYS_RATE.findall(texts["README.md"])) == 2


def test_another_figure_is_noticed() -> None:
    clock = find_clock(PRESETS["nano"]).mhz
    table = (
        "| target | cycles a frame | MHz | ms |\n|---|---|---|---|\n| `nano` | 100,000 | {} | {} |"
    )
    right = f"{100 / clock:.2f}"
    assert wrong(table.format(f"{clock:g}", right)) == []
    assert len(wrong(table.format(f"{clock + 1:g}", f"{100 / (clock + 1):.2f}"))) == 1
    assert len(wrong(table.format(f"{clock:g}", f"{float(right) + 0.01:.2f}"))) == 1
    block = "  nano   default   100,000   {}   {}   1,566  2.9/9"
    assert wrong(block.format(f"{clock:g}", right)) == []
    assert len(wrong(block.format(f"{clock:g}", f"{float(right) + 0.01:.2f}"))) == 1
    assert wrong(f"{clock:g} MHz for `nano`") == [] and wrong("299 MHz for `nano`") != []
    assert wrong("1.0 GB/s (`nano`)") != []
