"""The notebooks of examples/ show what they compute, and still compute it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))
MOST_BYTES = 500_000


def read(name: str) -> list[Any]:
    """Cells of code."""
    cells = nbformat.read(EXAMPLES / name, 4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def printed(cells: list[Any]) -> list[str]:
    """What each cell prints, its numbers left out: they may differ in the last digit.

    A command's lines end as a terminal has them, those in the file as Python has them.
    """
    return [
        re.sub(r"[\d.,]+", "0", "".join(out.text for out in cell.outputs if "text" in out)).replace(
            "\r\n", "\n"
        )
        for cell in cells
    ]


def test_there_are_two() -> None:
    assert len(NOTEBOOKS) == 2


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_is_executed_from_the_first_cell_to_the_last(name: str) -> None:
    cells = read(name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [out for cell in cells for out in cell.outputs]
    kinds = {out.output_type for out in outputs}
    assert kinds <= {"stream", "execute_result", "display_data"}, kinds
    assert all(out.name == "stdout" for out in outputs if out.output_type == "stream")
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 2
    text = (EXAMPLES / name).read_text()
    assert len(text) < MOST_BYTES
    assert not re.search(r"/(home|root|tmp|work)/", text)


@pytest.mark.skipif("MOESAIC_DOCUMENTS" not in os.environ, reason="takes minutes")
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    # Its commands are those of this environment.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    notebook = nbformat.read(EXAMPLES / name, 4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert printed(cells) == printed(read(name))
